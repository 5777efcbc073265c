//! SentencePiece's model file, the protocol buffer `sentencepiece.ModelProto` of `sentencepiece_model.proto`: pieces with
//! scores and kinds, and how texts are normalized.

use crate::checkpoint::protobuf::{Field, fields};
use std::ops::Range;

/// What a piece is for. llama.cpp numbers them alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::checkpoint) enum Kind {
    Normal,
    Unknown,
    /// A mark for the model, which no text becomes by accident.
    Control,
    /// A piece of text that is cut out before all others.
    UserDefined,
    /// Never made.
    Unused,
    /// One byte, as `<0x0A>`.
    Byte,
}

impl Kind {
    /// By its number, of which most have none.
    pub(in crate::checkpoint) fn of(number: i64) -> Self {
        match number {
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => Self::Normal,
        }
    }
}

/// A piece of text.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) score: f32,
    pub(super) kind: Kind,
}

/// How pieces are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Unigram,
    Bpe,
    Word,
    Char,
}

/// What a file says.
#[derive(Debug)]
pub(super) struct Model {
    /// By id.
    pub(super) pieces: Vec<Piece>,
    pub(super) algorithm: Algorithm,
    pub(super) byte_fallback: bool,
    pub(super) whitespace_as_suffix: bool,
    /// The first and the last token of a text; none if negative.
    pub(super) bos: i32,
    pub(super) eos: i32,
    pub(super) pad: i32,
    /// Rules of normalization, compiled by SentencePiece; empty for none.
    pub(super) rules: Vec<u8>,
    pub(super) dummy_prefix: bool,
    pub(super) squeezes_spaces: bool,
    pub(super) escapes_spaces: bool,
}

impl Model {
    /// Reads a file. Fields that do not matter to encoding are passed over.
    ///
    /// # Errors
    /// If it is cut off, or no such file.
    pub(super) fn read(file: &[u8]) -> Result<Self, String> {
        // Defaults of the definition.
        let mut model = Self {
            pieces: Vec::new(),
            algorithm: Algorithm::Unigram,
            byte_fallback: false,
            whitespace_as_suffix: false,
            bos: 1,
            eos: 2,
            pad: -1,
            rules: Vec::new(),
            dummy_prefix: true,
            squeezes_spaces: true,
            escapes_spaces: true,
        };
        fields(file, 0..file.len(), |field| {
            match field.number {
                1 => model.pieces.push(piece(file, field.bytes()?)?),
                2 => model.trainer(file, field.bytes()?)?,
                3 => model.normalizer(file, field.bytes()?)?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(model)
    }

    /// Reads a `TrainerSpec`.
    fn trainer(&mut self, file: &[u8], range: Range<usize>) -> Result<(), String> {
        fields(file, range, |field| {
            match field.number {
                3 => {
                    self.algorithm = match field.number(file)? {
                        2 => Algorithm::Bpe,
                        3 => Algorithm::Word,
                        4 => Algorithm::Char,
                        _ => Algorithm::Unigram,
                    }
                }
                24 => self.whitespace_as_suffix = field.number(file)? != 0,
                35 => self.byte_fallback = field.number(file)? != 0,
                41 => self.bos = field.number(file)? as i32,
                42 => self.eos = field.number(file)? as i32,
                43 => self.pad = field.number(file)? as i32,
                _ => {}
            }
            Ok(())
        })
    }

    /// Reads a `NormalizerSpec`.
    fn normalizer(&mut self, file: &[u8], range: Range<usize>) -> Result<(), String> {
        fields(file, range, |field| {
            match field.number {
                2 => self.rules = file[field.bytes()?].to_vec(),
                3 => self.dummy_prefix = field.number(file)? != 0,
                4 => self.squeezes_spaces = field.number(file)? != 0,
                5 => self.escapes_spaces = field.number(file)? != 0,
                _ => {}
            }
            Ok(())
        })
    }
}

/// Reads a `SentencePiece`.
fn piece(file: &[u8], range: Range<usize>) -> Result<Piece, String> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: Kind::Normal };
    fields(file, range, |field| {
        match field.number {
            1 => piece.text = text(file, &field)?,
            2 => piece.score = field.float(file)?,
            3 => piece.kind = Kind::of(field.number(file)? as i64),
            _ => {}
        }
        Ok(())
    })?;
    Ok(piece)
}

fn text(file: &[u8], field: &Field) -> Result<String, String> {
    let why = |_| format!("a piece at byte {} is no UTF-8", field.whole.start);
    String::from_utf8(file[field.bytes()?].to_vec()).map_err(why)
}
