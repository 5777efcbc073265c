//! Forced decoding: logits at every position of a given text.

use super::{Decoder, DecoderError};
use crate::program::{Part, Value};

impl Decoder {
    /// Runs `tokens` as one sequence from position 0 and hands the logits that follow each token to `on_row`, as
    /// `(position, logits[vocab_size])`, in order.
    ///
    /// # Errors
    /// [`DecoderError`]. One free sequence is needed.
    pub async fn score(&mut self, tokens: &[u32], on_row: &mut (impl FnMut(usize, &[f32]) + ?Sized)) -> Result<(), DecoderError> {
        let id = self.create_sequence()?;
        let result = self.score_sequence(id, tokens, on_row).await;
        self.remove_sequence(id)?;
        result
    }

    async fn score_sequence(
        &mut self,
        id: super::SequenceId,
        tokens: &[u32],
        on_row: &mut (impl FnMut(usize, &[f32]) + ?Sized),
    ) -> Result<(), DecoderError> {
        self.expect(id, tokens.len())?;
        let mut position = 0;
        for chunk in tokens.chunks(self.prefill_chunk) {
            self.fit_ropes(id, chunk.len()).await?;
            let step = self.append(id, chunk).await?;
            let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
            self.encode(&mut encoder, &[Part::Body(step)])?;
            self.gpu.queue.submit([encoder.finish()]);
            self.cache.advance(id, chunk)?;
            for first in (0..chunk.len()).step_by(self.buffers.logit_rows) {
                let rows = self.buffers.logit_rows.min(chunk.len() - first);
                let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
                self.copy_head_rows(&mut encoder, first, rows);
                self.encode(&mut encoder, &[Part::Head { rows, from: Value::HeadRows }])?;
                self.gpu.queue.submit([encoder.finish()]);
                for row in self.logits(rows).await?.chunks_exact(self.spec.vocab_size) {
                    on_row(position, row);
                    position += 1;
                }
            }
        }
        Ok(())
    }
}
