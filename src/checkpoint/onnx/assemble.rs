//! Wanted tensors of what claims them, with how to read it; comparisons number for number.

use super::OnnxError;
use super::identify::{Claim, Identifier};
use super::uses::{Kind, Use};
use crate::checkpoint::tensor::{Bytes, Dtype, Placement, TensorInfo, TensorView};
use crate::checkpoint::{CheckpointError, WantedTensor};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Identifier<'_> {
    /// All wanted tensors from what claims them.
    pub(super) fn tensors(&mut self) -> Result<BTreeMap<String, TensorInfo>, CheckpointError> {
        if let Some((embedding, head)) = self.tied()
            && self.claims[embedding].is_empty()
        {
            self.claims[embedding] = self.claims[head].clone();
        }
        let mut tensors = BTreeMap::new();
        for (i, wanted) in self.wanted.tensors.iter().enumerate() {
            let info = match self.claims[i].is_empty() {
                false => self.tensor(i)?,
                true => self.zeros(wanted).ok_or_else(|| self.missing(i))?,
            };
            tensors.insert(wanted.name.clone(), info);
        }
        if let Some((embedding, head)) = self.tied()
            && !self.claims[head].is_empty()
        {
            let (embedding, info) = (&self.all[embedding].name, self.tensor(head)?);
            self.check_tied(head, embedding, &tensors[embedding], &info)?;
        }
        Ok(tensors)
    }

    fn tensor(&self, wanted: usize) -> Result<TensorInfo, CheckpointError> {
        let claims = &self.claims[wanted];
        let parts = claims.first().ok_or_else(|| self.missing(wanted))?.part.1;
        let mut list = Vec::new();
        for part in 0..parts {
            let mut found = claims.iter().filter(|c| c.part == (part, parts)).map(|c| self.info(wanted, c));
            let Some(first) = found.next().transpose()? else {
                let why = format!("it is stored as {parts} tensors, and there is none for number {}", part + 1);
                return Err(self.ambiguous(wanted, why, claims).into());
            };
            for other in found {
                if !self.same(&first, &other?) {
                    let why = "tensors that differ say that they are it".to_string();
                    return Err(self.ambiguous(wanted, why, claims).into());
                }
            }
            list.push(first);
        }
        if claims.iter().any(|c| c.part.1 != parts) {
            let why = "it is stored both whole and in parts".to_string();
            return Err(self.ambiguous(wanted, why, claims).into());
        }
        if let Some(other) = list.iter().find(|part| part.shape[1..] != list[0].shape[1..]) {
            let why = format!("it is stored in parts of shapes {:?} and {:?}", list[0].shape, other.shape);
            return Err(self.ambiguous(wanted, why, claims).into());
        }
        match list.len() {
            1 => Ok(list.remove(0)),
            _ => Ok(stack(list)),
        }
    }

    /// A claimed tensor, with how to read it.
    fn info(&self, wanted: usize, claim: &Claim) -> Result<TensorInfo, CheckpointError> {
        let (wanted, stored) = (self.all[wanted], &self.context.stored[claim.tensor]);
        if let Some(placement) = claim.placed.clone() {
            let bytes = stored.bytes.clone().unwrap_or(Bytes::Owned { file: 0, bytes: Arc::default() });
            return Ok(TensorInfo {
                label: stored.label(),
                dtype: stored.dtype(),
                shape: wanted.shape.clone(),
                bytes,
                placement,
            });
        }
        let mut shape = self.shape(wanted, claim.tensor, &claim.used);
        if let Some(rows) = claim.rows {
            shape[0] = rows;
        }
        let sizes: Vec<usize> = stored.dims.iter().copied().filter(|&n| n != 1).collect();
        let columns = match shape.len() {
            2 => sizes.last().copied().unwrap_or(1),
            3 => shape[1..].iter().product(),
            _ => 1,
        };
        let transposed = match claim.used.kind {
            Kind::Matrix { outputs } => {
                let last = stored.dims.iter().rposition(|&n| n != 1) == Some(outputs);
                if (claim.rows.is_some() || claim.part.1 > 1) && wanted.inputs_first {
                    let why = "outputs are its columns here, which cannot be taken from or joined with others".to_string();
                    return Err(OnnxError::Tensor { file: self.file.into(), tensor: stored.name.clone(), why }.into());
                }
                last != wanted.inputs_first
            }
            Kind::Rows { rows } => stored.dims.iter().rposition(|&n| n != 1) == Some(rows),
            _ => false,
        };
        let added = wanted.adds - claim.used.plus;
        let exponential = wanted.decays && claim.used.kind == Kind::Gain;
        let placement =
            Placement { columns, transposed, first: claim.first, added, exponential, ..Placement::plain(&wanted.shape) };
        let dtype = stored.dtype();
        let bytes = stored.bytes.clone().unwrap_or(Bytes::Owned { file: 0, bytes: Arc::default() });
        Ok(TensorInfo { label: stored.label(), dtype, shape, bytes, placement })
    }

    /// A bias that an exporter left out since it is zero: the matrix is there, and the graph adds nothing to what it gives.
    fn zeros(&self, wanted: &WantedTensor) -> Option<TensorInfo> {
        let weight = format!("{}.weight", wanted.name.strip_suffix(".bias")?);
        let index = self.all.iter().position(|t| t.name == weight && t.shape.len() == 2)?;
        let (weight, claims) = (self.tensor(index).ok()?, &self.claims[index]);
        let nodes = &self.context.graph.nodes;
        let silent = |c: &Claim| matches!(c.used.kind, Kind::Matrix { .. }) && !self.context.has_bias(&nodes[c.used.node]);
        // Of the config's size, which the matrix's bytes bear out.
        let fits = weight.dtype.is_some() && weight.shape == self.all[index].shape;
        (fits && claims.iter().all(silent)).then(|| TensorInfo {
            label: "F32".into(),
            dtype: Some(Dtype::F32),
            shape: wanted.shape.clone(),
            bytes: Bytes::Owned { file: 0, bytes: Arc::new(vec![0; 4 * wanted.shape.iter().product::<usize>()]) },
            placement: Placement::plain(&wanted.shape),
        })
    }

    /// Whether two tensors are the same number for number.
    pub(super) fn same(&self, a: &TensorInfo, b: &TensorInfo) -> bool {
        let where_from = |info: &TensorInfo| match &info.bytes {
            Bytes::Mapped { file, range } => Some((*file, range.clone())),
            _ => None,
        };
        let placed = a.placement == b.placement && a.shape == b.shape;
        (placed && where_from(a).is_some() && where_from(a) == where_from(b)) || self.first_difference(a, b) == Ok(None)
    }

    /// The first row that differs.
    fn first_difference(&self, a: &TensorInfo, b: &TensorInfo) -> Result<Option<usize>, ()> {
        let view = |info| TensorView::new(info, self.context.files, "").ok_or(());
        view(a)?.first_difference(&view(b)?).map_err(|_| ())
    }

    fn check_tied(&self, head: usize, embedding: &str, a: &TensorInfo, b: &TensorInfo) -> Result<(), OnnxError> {
        if self.same(a, b) {
            return Ok(());
        }
        Err(OnnxError::NotTied {
            file: self.file.into(),
            head: self.all[head].name.clone(),
            embedding: embedding.into(),
            tensor: self.context.stored[self.claims[head][0].tensor].name.clone(),
            row: self.first_difference(a, b).ok().flatten().unwrap_or(0),
        })
    }

    /// Whether a vector changes nothing, as the zeros do that exporters give a layer norm without a bias.
    pub(super) fn is_neutral(&self, tensor: usize, used: &Use) -> bool {
        let neutral = match used.kind {
            Kind::Bias | Kind::BiasBefore => 0.0,
            Kind::Gain => 1.0 - used.plus,
            // Biases that GenAI's builder gives to experts without any.
            Kind::Rows { .. } if self.context.graph.nodes[used.node].op == "MoE" => 0.0,
            _ => return false,
        };
        let info = self.plain(tensor);
        let Some(view) = TensorView::new(&info, self.context.files, "") else { return false };
        let mut numbers = vec![f32::NAN; info.shape.iter().product()];
        view.read_rows(0..info.shape[0], &mut numbers).is_ok() && numbers.iter().all(|x| *x == neutral)
    }

    /// A tensor as it is stored.
    pub(super) fn plain(&self, tensor: usize) -> TensorInfo {
        let stored = &self.context.stored[tensor];
        let shape = match stored.dims.iter().filter(|&&n| n != 1).count() {
            0 | 1 => vec![stored.count],
            _ => stored.dims.clone(),
        };
        let bytes = stored.bytes.clone().unwrap_or(Bytes::Owned { file: 0, bytes: Arc::default() });
        let placement = Placement::plain(&shape);
        TensorInfo { label: stored.label(), dtype: stored.dtype(), shape, bytes, placement }
    }
}

/// Tensors below each other.
fn stack(parts: Vec<TensorInfo>) -> TensorInfo {
    let mut shape = parts[0].shape.clone();
    shape[0] = parts.iter().map(|p| p.shape[0]).sum();
    let (label, dtype) = (parts[0].label.clone(), parts[0].dtype);
    let placement = Placement::plain(&shape);
    TensorInfo { label, dtype, shape, bytes: Bytes::Stacked { parts }, placement }
}
