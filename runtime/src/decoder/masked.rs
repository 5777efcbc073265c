//! Tokens that are chosen under a mask, one at a time: choosing, and the forward pass of what was chosen, are submitted apart, so
//! that an id comes back while its token's forward pass runs.

use super::{Choice, Decoder, DecoderError, SequenceId};
use crate::kernels::attention::Token;
use crate::program::{Part, Step, Value};

impl Decoder {
    /// Submits the choice of the next token, from the logits that [`Decoder::prefill`] or [`Decoder::feed_chosen`] left for `id`,
    /// among those whose bits are set in `mask`: bit `i % 32` of word `i / 32` for the token `i`. [`Decoder::chosen`] waits for it.
    ///
    /// # Errors
    /// [`DecoderError`].
    pub fn choose(&mut self, id: SequenceId, choice: Choice<'_>, mask: &[u32]) -> Result<(), DecoderError> {
        self.forget_flights();
        // The kernel gives the token the position after that of the one before.
        let (position, long) = (self.cache.len(id)?.saturating_sub(1) as u32, u32::from(self.cache.is_long(id)?));
        let before = Token { id: 0, position, sequence: id.row as u32, long };
        self.gpu.write(&self.buffers.tokens, 0, &[before]);
        self.gpu.write(&self.buffers.mask, 0, mask);
        self.write_params(&[choice.params(id)]);
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        self.encode(&mut encoder, &[Part::Sample { rows: 1, advance: true, masked: true }])?;
        self.submit_sampling(encoder);
        Ok(())
    }

    /// Appends the token that [`Decoder::choose`] chooses to its sequence, and leaves its logits as row 0, without waiting for its
    /// id. `false`, and nothing is done, where the host has to know the token: the caller gives it to [`Decoder::prefill`].
    ///
    /// # Errors
    /// [`DecoderError`].
    pub fn feed_chosen(&mut self, id: SequenceId) -> Result<bool, DecoderError> {
        if self.per_layer.is_some() || self.steps_ahead(&[id], 1)? == 0 {
            return Ok(false);
        }
        let len = self.cache.len(id)?;
        self.reserve(id, len + 1)?;
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        self.encode(&mut encoder, &[Part::Body(Step::of_decode(1)), Part::Head { rows: 1, from: Value::Hidden }])?;
        self.gpu.queue.submit([encoder.finish()]);
        self.cache.advance_unknown(id)?;
        self.cache.keep_some_states(&self.gpu, id);
        Ok(true)
    }

    /// The token that [`Decoder::choose`] chose; `fed` is what [`Decoder::feed_chosen`] said since.
    ///
    /// # Errors
    /// [`DecoderError`].
    pub async fn chosen(&mut self, id: SequenceId, fed: bool) -> Result<u32, DecoderError> {
        let token = self.land().await?[0];
        if fed {
            self.cache.learn(id, 1, token);
        }
        Ok(token)
    }
}
