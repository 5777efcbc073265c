//! SentencePiece's model file, the protocol buffer `sentencepiece.ModelProto` of `sentencepiece_model.proto`: pieces with
//! scores and kinds, and how texts are normalized.

use protobuf::CodedInputStream;
use protobuf::rt::skip_field_for_tag;

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
    pub(super) fn read(bytes: &[u8]) -> protobuf::Result<Self> {
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
        fields(bytes, |tag, stream| {
            match tag {
                PIECES => model.pieces.push(piece(&stream.read_bytes()?)?),
                TRAINER => model.trainer(&stream.read_bytes()?)?,
                NORMALIZER => model.normalizer(&stream.read_bytes()?)?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(model)
    }

    fn trainer(&mut self, bytes: &[u8]) -> protobuf::Result<()> {
        fields(bytes, |tag, stream| {
            match tag {
                MODEL_TYPE => {
                    self.algorithm = match stream.read_int32()? {
                        2 => Algorithm::Bpe,
                        3 => Algorithm::Word,
                        4 => Algorithm::Char,
                        _ => Algorithm::Unigram,
                    }
                }
                AS_SUFFIX => self.whitespace_as_suffix = stream.read_bool()?,
                BYTE_FALLBACK => self.byte_fallback = stream.read_bool()?,
                BOS => self.bos = stream.read_int32()?,
                EOS => self.eos = stream.read_int32()?,
                PAD => self.pad = stream.read_int32()?,
                _ => return Ok(false),
            }
            Ok(true)
        })
    }

    fn normalizer(&mut self, bytes: &[u8]) -> protobuf::Result<()> {
        fields(bytes, |tag, stream| {
            match tag {
                RULES => self.rules = stream.read_bytes()?,
                DUMMY_PREFIX => self.dummy_prefix = stream.read_bool()?,
                SQUEEZES => self.squeezes_spaces = stream.read_bool()?,
                ESCAPES => self.escapes_spaces = stream.read_bool()?,
                _ => return Ok(false),
            }
            Ok(true)
        })
    }
}

/// A field's tag: its number, and how it is stored.
const fn tag(number: u32, wire: u32) -> u32 {
    number << 3 | wire
}

const VARINT: u32 = 0;
const BYTES: u32 = 2;
const GROUP_START: u32 = 3;
const GROUP_END: u32 = 4;
const FOUR_BYTES: u32 = 5;

const PIECES: u32 = tag(1, BYTES);
const TRAINER: u32 = tag(2, BYTES);
const NORMALIZER: u32 = tag(3, BYTES);

const TEXT: u32 = tag(1, BYTES);
const SCORE: u32 = tag(2, FOUR_BYTES);
const KIND: u32 = tag(3, VARINT);

const MODEL_TYPE: u32 = tag(3, VARINT);
const AS_SUFFIX: u32 = tag(24, VARINT);
const BYTE_FALLBACK: u32 = tag(35, VARINT);
const BOS: u32 = tag(41, VARINT);
const EOS: u32 = tag(42, VARINT);
const PAD: u32 = tag(43, VARINT);

const RULES: u32 = tag(2, BYTES);
const DUMMY_PREFIX: u32 = tag(3, VARINT);
const SQUEEZES: u32 = tag(4, VARINT);
const ESCAPES: u32 = tag(5, VARINT);

fn piece(bytes: &[u8]) -> protobuf::Result<Piece> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: Kind::Normal };
    fields(bytes, |tag, stream| {
        match tag {
            TEXT => piece.text = stream.read_string()?,
            SCORE => piece.score = stream.read_float()?,
            KIND => piece.kind = Kind::of(stream.read_int32()?.into()),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(piece)
}

/// Calls `read` with the tag of each field of a message, and passes over the fields that it does not read. Refuses groups, which
/// the definition does not have: protobuf follows groups within groups as deep as a file wants.
fn fields(bytes: &[u8], mut read: impl FnMut(u32, &mut CodedInputStream) -> protobuf::Result<bool>) -> protobuf::Result<()> {
    let mut stream = CodedInputStream::from_bytes(bytes);
    while let Some(tag) = stream.read_raw_tag_or_eof()? {
        if matches!(tag & 7, GROUP_START | GROUP_END) {
            let why = format!("a group before byte {}", stream.pos());
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, why).into());
        }
        if !read(tag, &mut stream)? {
            skip_field_for_tag(tag, &mut stream)?;
        }
    }
    Ok(())
}
