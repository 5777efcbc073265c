//! Which tensor of a model is which weight of the family.

use super::OnnxError;
use super::graph::Graph;
use super::names::{Match, Names};
use super::stored::Stored;
use super::uses::{Context, Kind, Use};
use crate::checkpoint::file::MappedFile;
use crate::checkpoint::tensor::{Bytes, Dtype, Placement, RowOrder, TensorInfo, TensorView};
use crate::checkpoint::{CheckpointError, Wanted, WantedTensor};
use std::collections::BTreeMap;
use std::sync::Arc;

/// That a tensor is a weight, or holds it.
#[derive(Clone, Debug)]
struct Claim {
    tensor: usize,
    used: Use,
    /// The first of its rows, where it holds several weights; how many otherwise follows from its shape.
    first: usize,
    rows: Option<usize>,
    /// Which part it is, of how many.
    part: (usize, usize),
}

pub(super) struct Identifier<'a> {
    file: &'a str,
    wanted: &'a Wanted,
    /// A tied head stands behind the wanted tensors.
    all: Vec<&'a WantedTensor>,
    context: Context<'a>,
    uses: Vec<Vec<Use>>,
    claims: Vec<Vec<Claim>>,
    claimed: Vec<bool>,
}

/// Finds all of `wanted`, and that nothing else is left.
pub(super) fn identify(
    file: &str,
    graph: &Graph<'_>,
    stored: &[Stored],
    files: &[MappedFile],
    wanted: &Wanted,
) -> Result<BTreeMap<String, TensorInfo>, CheckpointError> {
    let head = wanted.tied_head.as_ref().and_then(|[head, embedding]| {
        let embedding = wanted.tensors.iter().find(|t| t.name == *embedding)?;
        Some(WantedTensor { name: head.clone(), ..embedding.clone() })
    });
    let with_head = Wanted { tensors: wanted.tensors.iter().chain(&head).cloned().collect(), ..wanted.clone() };
    let mut values = vec![Vec::new(); stored.len()];
    for (id, value) in graph.values.iter().enumerate() {
        if let Some(tensor) = value.tensor {
            values[tensor].push(id);
        }
    }
    let context = Context { graph, stored, files };
    let uses: Vec<Vec<Use>> = values.iter().enumerate().map(|(i, values)| context.uses(i, values)).collect();
    let mut identifier = Identifier {
        file,
        wanted,
        all: with_head.tensors.iter().collect(),
        context,
        uses,
        claims: vec![Vec::new(); with_head.tensors.len()],
        claimed: vec![false; stored.len()],
    };
    identifier.refuse_quantized()?;
    identifier.by_name(&Names::new(&with_head))?;
    identifier.by_structure();
    let tensors = identifier.tensors()?;
    identifier.check_left(&Names::new(&with_head), &tensors)?;
    Ok(tensors)
}

impl Identifier<'_> {
    /// Tensors that may be weights.
    fn candidates(&self) -> impl Iterator<Item = usize> + use<'_> {
        let floats = |&i: &usize| self.context.stored[i].is_float() && self.context.stored[i].count > 1;
        (0..self.context.stored.len()).filter(floats)
    }

    /// Whole numbers that become a matrix.
    fn refuse_quantized(&self) -> Result<(), OnnxError> {
        let packed = |i: &usize| {
            let stored = &self.context.stored[*i];
            stored.is_packed() && stored.count > 1 && self.uses[*i].iter().any(|u| u.kind.is_matrix() || u.kind == Kind::Other)
        };
        match (0..self.uses.len()).find(packed) {
            Some(i) => {
                let what = format!("tensor {} holds {} numbers", self.context.stored[i].name, self.context.stored[i].label());
                Err(OnnxError::Quantized { file: self.file.into(), what })
            }
            None => Ok(()),
        }
    }

    /// By the modules that nodes are of, then by the tensors' own names.
    fn by_name(&mut self, names: &Names) -> Result<(), OnnxError> {
        for tensor in self.candidates().collect::<Vec<_>>() {
            let own = names.find(&self.context.stored[tensor].name);
            let uses: Vec<Use> = self.uses[tensor].iter().filter(|u| u.kind.is_matrix() || u.kind.is_vector()).cloned().collect();
            for used in &uses {
                let node = &self.context.graph.nodes[used.node];
                let suffix = match used.kind {
                    Kind::Bias => Some("bias"),
                    Kind::BiasBefore => None,
                    _ => Some("weight"),
                };
                let modules = [node.scope(), node.path()];
                let by_node = modules.iter().flatten().zip(suffix.iter().cycle());
                let by_node = by_node.filter_map(|(module, suffix)| names.find(&format!("{module}.{suffix}")));
                let by_node = by_node.filter(|found| self.fits(found, used)).next();
                let own = own.clone().filter(|found| self.fits(found, used));
                let found = match (by_node, own) {
                    (Some(node), Some(own)) if node != own && uses.len() == 1 && !self.are_tied(&node, &own) => {
                        return Err(self.contradiction(tensor, used, &node, &own));
                    }
                    (Some(node), _) => node,
                    // A tied head goes by the embedding's name.
                    (None, Some(own)) if used.to_output && self.is_embedding(&own) => continue,
                    (None, Some(own)) => own,
                    (None, None) => continue,
                };
                self.claim(tensor, used, &found)?;
            }
        }
        Ok(())
    }

    fn fits(&self, found: &Match, used: &Use) -> bool {
        let wanted = match found {
            Match::Whole(i) | Match::PartOf { wanted: i, .. } => *i,
            Match::Several(list) => list[0],
        };
        match self.all[wanted].shape.len() {
            1 => used.kind.is_vector(),
            _ => used.kind.is_matrix(),
        }
    }

    /// The places of embedding and head, if they are one.
    fn tied(&self) -> Option<(usize, usize)> {
        let [_, embedding] = self.wanted.tied_head.as_ref()?;
        let embedding = self.wanted.tensors.iter().position(|t| t.name == *embedding)?;
        Some((embedding, self.wanted.tensors.len()))
    }

    fn is_embedding(&self, found: &Match) -> bool {
        self.tied().is_some_and(|(embedding, _)| *found == Match::Whole(embedding))
    }

    fn are_tied(&self, a: &Match, b: &Match) -> bool {
        self.tied()
            .is_some_and(|(embedding, head)| [a, b].iter().all(|m| [Match::Whole(embedding), Match::Whole(head)].contains(m)))
    }

    fn claim(&mut self, tensor: usize, used: &Use, found: &Match) -> Result<(), OnnxError> {
        let claim = |first, rows, part| Claim { tensor, used: used.clone(), first, rows, part };
        match found {
            Match::Whole(i) => self.claims[*i].push(claim(0, None, (0, 1))),
            Match::PartOf { wanted, part, parts } => self.claims[*wanted].push(claim(0, None, (*part, *parts))),
            Match::Several(list) => {
                let rows: Vec<usize> = list.iter().map(|&i| self.all[i].shape[0]).collect();
                let total = self.rows(tensor, used);
                if rows.iter().sum::<usize>() != total {
                    let names: Vec<&str> = list.iter().map(|&i| self.all[i].name.as_str()).collect();
                    let why = format!("it has {total} rows, {} together have {}", names.join(", "), rows.iter().sum::<usize>());
                    let tensor = self.context.stored[tensor].name.clone();
                    return Err(OnnxError::Tensor { file: self.file.into(), tensor, why });
                }
                let mut first = 0;
                for (&i, rows) in list.iter().zip(rows) {
                    self.claims[i].push(claim(first, Some(rows), (0, 1)));
                    first += rows;
                }
            }
        }
        self.claimed[tensor] = true;
        Ok(())
    }

    /// Rows of a stored tensor as transformers has most of them: a matrix has one for each output.
    fn rows(&self, tensor: usize, used: &Use) -> usize {
        let stored = &self.context.stored[tensor];
        match used.kind {
            Kind::Matrix { outputs: rows } | Kind::Rows { rows } => stored.dims[rows],
            _ => stored.count,
        }
    }

    /// What names leave: the head is what makes the model's output, and a weight that only one tensor can be is that
    /// tensor, if it can be no other weight.
    fn by_structure(&mut self) {
        let free = |this: &Self| -> Vec<(usize, Use)> {
            let open = |u: &&Use| u.kind.is_matrix() || u.kind.is_vector();
            let of = |i: usize| this.uses[i].iter().filter(open).map(move |u| (i, u.clone()));
            this.candidates().filter(|&i| !this.claimed[i]).flat_map(of).collect()
        };
        let head = match self.tied() {
            Some((embedding, head)) => {
                // The embedding's tensor may be the head's as well.
                let claimed: Vec<usize> = self.claims[embedding].iter().map(|c| c.tensor).collect();
                let shared = claimed.iter().flat_map(|&i| self.uses[i].iter().map(move |u| (i, u.clone()))).collect::<Vec<_>>();
                self.take_head(head, &shared);
                Some(head)
            }
            None => {
                let uses = |i: usize| self.uses[i].iter().any(|u| u.to_output);
                let wanted = |i: &usize| self.claims[*i].is_empty() && self.all[*i].shape.len() == 2;
                let open = (0..self.all.len()).filter(wanted).collect::<Vec<_>>();
                // The head is the one matrix without the base name.
                let head = open.into_iter().find(|&i| !self.all[i].name.starts_with(&self.wanted.base));
                head.filter(|_| self.candidates().any(uses))
            }
        };
        if let Some(head) = head {
            let free = free(self);
            self.take_head(head, &free);
        }
        loop {
            let free = free(self);
            let open: Vec<usize> = (0..self.wanted.tensors.len()).filter(|&i| self.claims[i].is_empty()).collect();
            let only = open.iter().find_map(|&i| {
                let mut could = free.iter().filter(|(tensor, used)| self.could_be(i, *tensor, used));
                let (tensor, used) = could.next()?;
                let alone = could.all(|(other, _)| other == tensor);
                let no_other = open.iter().all(|&j| j == i || !free.iter().any(|(t, u)| t == tensor && self.could_be(j, *t, u)));
                (alone && no_other).then(|| (i, *tensor, used.clone()))
            });
            let Some((i, tensor, used)) = only else { return };
            self.claims[i].push(Claim { tensor, used, first: 0, rows: None, part: (0, 1) });
            self.claimed[tensor] = true;
        }
    }

    fn take_head(&mut self, head: usize, uses: &[(usize, Use)]) {
        if !self.claims[head].is_empty() {
            return;
        }
        let makes: Vec<&(usize, Use)> = uses.iter().filter(|(i, u)| u.to_output && self.could_be(head, *i, u)).collect();
        let Some((tensor, used)) = makes.first().filter(|first| makes.iter().all(|m| m.0 == first.0)) else { return };
        self.claims[head].push(Claim { tensor: *tensor, used: used.clone(), first: 0, rows: None, part: (0, 1) });
        self.claimed[*tensor] = true;
    }

    /// Whether a tensor has the shape of a wanted one and is used as such.
    fn could_be(&self, wanted: usize, tensor: usize, used: &Use) -> bool {
        let wanted = self.all[wanted];
        let is_bias = wanted.name.ends_with(".bias");
        let kind = match used.kind {
            Kind::Bias | Kind::BiasBefore => wanted.shape.len() == 1 && is_bias,
            Kind::Gain => wanted.shape.len() == 1 && !is_bias,
            _ => wanted.shape.len() == 2,
        };
        kind && self.shape(wanted, tensor, used) == wanted.shape
    }

    /// A stored tensor's shape as transformers has it.
    fn shape(&self, wanted: &WantedTensor, tensor: usize, used: &Use) -> Vec<usize> {
        let stored = &self.context.stored[tensor];
        match used.kind {
            Kind::Matrix { outputs: rows } | Kind::Rows { rows } => {
                let others = stored.dims.iter().enumerate().filter(|(i, size)| *i != rows && **size != 1).map(|(_, size)| size);
                let mut shape = vec![stored.dims[rows], others.product()];
                if wanted.inputs_first && matches!(used.kind, Kind::Matrix { .. }) {
                    shape.reverse();
                }
                shape
            }
            _ => vec![stored.count],
        }
    }

    /// All wanted tensors from what claims them.
    fn tensors(&mut self) -> Result<BTreeMap<String, TensorInfo>, CheckpointError> {
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
        let parts = claims[0].part.1;
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
        let mut shape = self.shape(wanted, claim.tensor, &claim.used);
        if let Some(rows) = claim.rows {
            shape[0] = rows;
        }
        let sizes: Vec<usize> = stored.dims.iter().copied().filter(|&n| n != 1).collect();
        let columns = if shape.len() == 2 { sizes.last().copied().unwrap_or(1) } else { 1 };
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
        let placement = Placement { columns, transposed, first: claim.first, order: RowOrder::Same, added };
        let dtype = stored.dtype();
        let bytes = stored.bytes.clone().unwrap_or(Bytes::Owned { file: 0, bytes: Arc::default() });
        Ok(TensorInfo { label: stored.label(), dtype, shape, bytes, placement })
    }

    /// A bias that an exporter left out since it is zero: the matrix is there, and the graph adds nothing to what it gives.
    fn zeros(&self, wanted: &WantedTensor) -> Option<TensorInfo> {
        let weight = format!("{}.weight", wanted.name.strip_suffix(".bias")?);
        let weight = self.all.iter().position(|t| t.name == weight && t.shape.len() == 2)?;
        let claims = &self.claims[weight];
        let nodes = &self.context.graph.nodes;
        let silent = |c: &Claim| matches!(c.used.kind, Kind::Matrix { .. }) && !self.context.has_bias(&nodes[c.used.node]);
        (!claims.is_empty() && claims.iter().all(silent)).then(|| TensorInfo {
            label: "F32".into(),
            dtype: Some(Dtype::F32),
            shape: wanted.shape.clone(),
            bytes: Bytes::Owned { file: 0, bytes: Arc::new(vec![0; 4 * wanted.shape.iter().product::<usize>()]) },
            placement: Placement::plain(&wanted.shape),
        })
    }

    /// Whether two tensors are the same number for number.
    fn same(&self, a: &TensorInfo, b: &TensorInfo) -> bool {
        let where_from = |info: &TensorInfo| match &info.bytes {
            Bytes::Mapped { file, range } => Some((*file, range.clone())),
            _ => None,
        };
        let placed = a.placement == b.placement && a.shape == b.shape;
        (placed && where_from(a).is_some() && where_from(a) == where_from(b)) || self.first_difference(a, b) == Ok(None)
    }

    /// The first row that differs.
    fn first_difference(&self, a: &TensorInfo, b: &TensorInfo) -> Result<Option<usize>, ()> {
        if a.shape != b.shape {
            return Ok(Some(0));
        }
        let view = |info| TensorView::new(info, self.context.files, "").ok_or(());
        let (a, b) = (view(a)?, view(b)?);
        let (rows, width) = (a.shape()[0], a.shape()[1..].iter().product::<usize>());
        const ROWS: usize = 64;
        let (mut x, mut y) = (vec![0.0; ROWS * width], vec![0.0; ROWS * width]);
        for start in (0..rows).step_by(ROWS) {
            let now = start..(start + ROWS).min(rows);
            let (x, y) = (&mut x[..now.len() * width], &mut y[..now.len() * width]);
            a.read_rows(now.clone(), x).map_err(|_| ())?;
            b.read_rows(now, y).map_err(|_| ())?;
            if let Some(at) = x.iter().zip(&*y).position(|(x, y)| x.to_bits() != y.to_bits()) {
                return Ok(Some(start + at / width.max(1)));
            }
        }
        Ok(None)
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

    /// No weight may be left over, since weights that are dropped in silence make a model that speaks gibberish.
    fn check_left(&self, names: &Names, tensors: &BTreeMap<String, TensorInfo>) -> Result<(), OnnxError> {
        for tensor in self.candidates().filter(|&i| !self.claimed[i]) {
            let (stored, uses) = (&self.context.stored[tensor], &self.uses[tensor]);
            let rotates = |name: &str| ["rotary", "inv_freq", "cos_cache", "sin_cache"].iter().any(|part| name.contains(part));
            let weighs = |u: &&Use| {
                let node = &self.context.graph.nodes[u.node];
                u.kind != Kind::Constant && ![node.scope(), node.path()].iter().flatten().any(|name| rotates(name))
            };
            if rotates(&stored.name) {
                continue;
            }
            let used = match uses.iter().find(weighs) {
                Some(used) => self.context.graph.nodes[used.node].describe(),
                // Nothing takes it. What has the name of a weight may be left from before the exporter made another of it.
                None if uses.is_empty() && stored.dims.iter().filter(|&&n| n != 1).count() > 1 => {
                    let copy = match names.find(&stored.name) {
                        Some(Match::Whole(i)) => tensors.get(&self.all[i].name),
                        _ => None,
                    };
                    let plain = TensorInfo {
                        label: stored.label(),
                        dtype: stored.dtype(),
                        shape: stored.dims.clone(),
                        bytes: stored.bytes.clone().unwrap_or(Bytes::Owned { file: 0, bytes: Arc::default() }),
                        placement: Placement::plain(&stored.dims),
                    };
                    if copy.is_some_and(|copy| self.same(copy, &plain)) {
                        continue;
                    }
                    "nothing takes it".into()
                }
                None => continue,
            };
            let (tensor, shape) = (stored.name.clone(), stored.dims.clone());
            return Err(OnnxError::Unclaimed { file: self.file.into(), tensor, shape, used });
        }
        Ok(())
    }

    fn contradiction(&self, tensor: usize, used: &Use, node: &Match, own: &Match) -> OnnxError {
        let name = |found: &Match| match found {
            Match::Whole(i) | Match::PartOf { wanted: i, .. } => *i,
            Match::Several(list) => list[0],
        };
        let (own, node) = (name(own), name(node));
        let stored = &self.context.stored[tensor];
        let why = format!("tensor {} is called so, and its node is of {}", stored.name, self.all[node].name);
        let claim = Claim { tensor, used: used.clone(), first: 0, rows: None, part: (0, 1) };
        self.ambiguous(own, why, &[claim])
    }

    /// Why there is nothing for a wanted tensor.
    fn missing(&self, wanted: usize) -> CheckpointError {
        let mut could = Vec::new();
        for tensor in self.candidates().filter(|&i| !self.claimed[i]) {
            for used in &self.uses[tensor] {
                if self.could_be(wanted, tensor, used) {
                    could.push(Claim { tensor, used: used.clone(), first: 0, rows: None, part: (0, 1) });
                }
            }
        }
        let own = |&i: &usize| self.context.stored[i].name == self.all[wanted].name;
        if could.is_empty() {
            return match self.candidates().find(own) {
                Some(i) => {
                    let nodes: Vec<String> = self.uses[i].iter().map(|u| self.context.graph.nodes[u.node].describe()).collect();
                    let nodes = if nodes.is_empty() { "nothing".into() } else { nodes.join(", ") };
                    let why = format!("a tensor is called so, but what takes it ({nodes}) does not say how it lies");
                    self.ambiguous(wanted, why, &[]).into()
                }
                None => CheckpointError::Missing { path: self.file.into(), tensor: self.all[wanted].name.clone() },
            };
        }
        let why = format!("no name or scope says so, and {} could be", could.len());
        self.ambiguous(wanted, why, &could).into()
    }

    fn ambiguous(&self, wanted: usize, why: String, claims: &[Claim]) -> OnnxError {
        const SHOWN: usize = 8;
        let line = |c: &Claim| {
            let (stored, node) = (&self.context.stored[c.tensor], &self.context.graph.nodes[c.used.node]);
            format!("\n  {} {:?}, taken by {}", stored.name, stored.dims, node.describe())
        };
        let mut candidates: String = claims.iter().take(SHOWN).map(line).collect();
        if claims.len() > SHOWN {
            candidates += &format!("\n  and {} more", claims.len() - SHOWN);
        }
        OnnxError::Ambiguous { file: self.file.into(), wanted: self.all[wanted].name.clone(), why, candidates }
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
