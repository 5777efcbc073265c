//! Which tensor of a model is which weight of the family.

use super::OnnxError;
use super::graph::Graph;
use super::names::{Match, Names};
use super::stored::Stored;
use super::uses::{Context, Kind, Use};
use crate::checkpoint::file::MappedFile;
use crate::checkpoint::tensor::{Placement, RowOrder, TensorInfo, TensorView};
use crate::checkpoint::{CheckpointError, Nearest, Wanted, WantedTensor};
use std::collections::BTreeMap;

/// That a tensor is a weight, or holds it.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) tensor: usize,
    pub(super) used: Use,
    /// The first of its rows, where it holds several weights; how many otherwise follows from its shape.
    pub(super) first: usize,
    pub(super) rows: Option<usize>,
    /// Which part it is, of how many.
    pub(super) part: (usize, usize),
    /// Where it lies, if that is known without its use.
    pub(super) placed: Option<Placement>,
}

impl Claim {
    /// That a tensor is one weight, whole.
    fn whole(tensor: usize, used: Use) -> Self {
        Self { tensor, used, first: 0, rows: None, part: (0, 1), placed: None }
    }
}

pub(super) struct Identifier<'a> {
    pub(super) file: &'a str,
    pub(super) wanted: &'a Wanted,
    /// A tied head stands behind the wanted tensors.
    pub(super) all: Vec<&'a WantedTensor>,
    pub(super) context: Context<'a>,
    pub(super) uses: Vec<Vec<Use>>,
    pub(super) claims: Vec<Vec<Claim>>,
    pub(super) claimed: Vec<bool>,
}

/// Finds all of `wanted`, and that nothing else is left.
pub(super) fn identify(
    file: &str,
    graph: &Graph<'_>,
    stored: &[Stored],
    files: &[MappedFile],
    wanted: &Wanted,
) -> Result<BTreeMap<String, TensorInfo>, CheckpointError> {
    let embedding = wanted.tensors.iter().find(|t| wanted.tied && t.name == wanted.embedding);
    let head = embedding.map(|embedding| WantedTensor { name: wanted.head.clone(), ..embedding.clone() });
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
    identifier.experts(&Names::new(&with_head));
    identifier.by_structure();
    let tensors = identifier.tensors()?;
    identifier.check_left(&Names::new(&with_head), &tensors)?;
    Ok(tensors)
}

impl Identifier<'_> {
    /// Tensors that may be weights.
    fn candidates(&self) -> impl Iterator<Item = usize> + use<'_> {
        // Single numbers are constants, where none is wanted.
        let least = if self.all.iter().any(|t| t.shape.iter().all(|n| *n == 1)) { 1 } else { 2 };
        let floats = move |&i: &usize| self.context.stored[i].is_float() && self.context.stored[i].count >= least;
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
            let uses: Vec<Use> = self.uses[tensor].iter().filter(|u| u.kind.is_weight()).cloned().collect();
            for used in &uses {
                let node = &self.context.graph.nodes[used.node];
                let suffix = match used.kind {
                    Kind::Bias => Some("bias"),
                    Kind::BiasBefore | Kind::Exponent | Kind::Apart => None,
                    _ => Some("weight"),
                };
                let modules = [node.scope(), node.path()];
                let by_node = suffix.and_then(|suffix| {
                    let mut found = modules.iter().flatten().filter_map(|module| names.find(&format!("{module}.{suffix}")));
                    found.find(|found| self.fits(found, used))
                });
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
            3 => used.kind == Kind::Kernel,
            _ => used.kind.is_matrix(),
        }
    }

    /// Experts' matrices that are stored as one tensor.
    fn experts(&mut self, names: &Names) {
        for tensor in self.candidates().collect::<Vec<_>>() {
            let kind = |u: &&Use| matches!(u.kind, Kind::Experts { .. });
            let Some(used) = self.uses[tensor].iter().find(kind).cloned() else { continue };
            let node = &self.context.graph.nodes[used.node];
            let own = &self.context.stored[tensor].name;
            let own = own.strip_suffix(".weight").unwrap_or(own).rsplit_once('.').map(|(list, _)| list.to_string());
            let lists = [own, node.scope(), node.path()];
            // GenAI's operator has gate and up in turn, if it says so.
            let in_turn = node.int("swiglu_fusion") == Some(1);
            let claims = lists.iter().flatten().find_map(|list| self.experts_of(names, list, tensor, &used, in_turn));
            for (i, placed) in claims.into_iter().flatten() {
                self.claims[i].push(Claim { placed: Some(placed), ..Claim::whole(tensor, used.clone()) });
                self.claimed[tensor] = true;
            }
        }
    }

    /// Which wanted tensors of a list of experts a tensor holds, and where.
    fn experts_of(&self, names: &Names, list: &str, tensor: usize, used: &Use, in_turn: bool) -> Option<Vec<(usize, Placement)>> {
        let Kind::Experts { rows_first } = used.kind else { return None };
        let [experts, first, second] = self.context.stored[tensor].dims[..] else { return None };
        let (rows, columns) = if rows_first { (first, second) } else { (second, first) };
        let find = |expert: usize, part: &str| match names.find(&format!("{list}.{expert}.{part}.weight")) {
            Some(Match::Whole(i)) => Some(i),
            _ => None,
        };
        for kind in [&["gate_proj", "up_proj"][..], &["w1", "w3"], &["gate_up_proj"], &["down_proj"], &["w2"]] {
            let each = rows / kind.len();
            let fits = |i: usize| self.all[i].shape == [each, columns];
            if each * kind.len() != rows || !kind.iter().all(|part| find(0, part).is_some_and(fits)) {
                continue;
            }
            if find(experts, kind[0]).is_some() {
                return None;
            }
            let split = kind.len() == 2 && in_turn;
            let place = |(n, (expert, part)): (usize, (usize, &&str))| {
                let i = find(expert, part).filter(|i| fits(*i))?;
                let before = n % kind.len() * if split { 1 } else { each };
                let order = if split { RowOrder::RotaryPairs { head_dim: rows } } else { RowOrder::Same };
                let first = if rows_first { expert * rows + before } else { expert * rows * columns + before };
                let columns = if rows_first { columns } else { rows };
                Some((i, Placement { first, order, columns, transposed: !rows_first, ..Placement::plain(&[each, columns]) }))
            };
            let all = (0..experts).flat_map(|expert| kind.iter().map(move |part| (expert, part)));
            return all.enumerate().map(place).collect();
        }
        None
    }

    /// The places of embedding and head, if they are one.
    pub(super) fn tied(&self) -> Option<(usize, usize)> {
        let embedding = self.wanted.tensors.iter().position(|t| self.wanted.tied && t.name == self.wanted.embedding)?;
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
        let claim = |first, rows, part| Claim { first, rows, part, ..Claim::whole(tensor, used.clone()) };
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
            let open = |u: &&Use| u.kind.is_weight();
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
            self.claims[i].push(Claim::whole(tensor, used));
            self.claimed[tensor] = true;
        }
    }

    fn take_head(&mut self, head: usize, uses: &[(usize, Use)]) {
        if !self.claims[head].is_empty() {
            return;
        }
        let makes: Vec<&(usize, Use)> = uses.iter().filter(|(i, u)| u.to_output && self.could_be(head, *i, u)).collect();
        let Some((tensor, used)) = makes.first().filter(|first| makes.iter().all(|m| m.0 == first.0)) else { return };
        self.claims[head].push(Claim::whole(*tensor, used.clone()));
        self.claimed[*tensor] = true;
    }

    /// Whether a tensor has the shape of a wanted one and is used as such.
    pub(super) fn could_be(&self, wanted: usize, tensor: usize, used: &Use) -> bool {
        let wanted = self.all[wanted];
        let (is_bias, is_vector) = (wanted.name.ends_with("bias"), wanted.shape.len() == 1);
        let module = self.own_module(wanted);
        let kind = match used.kind {
            Kind::Bias => is_vector && is_bias,
            Kind::BiasBefore => is_vector && is_bias && module.is_none(),
            Kind::Gain => is_vector && !is_bias && module.is_none_or(|module| self.has_sign(wanted, module, tensor)),
            Kind::Exponent => is_vector && wanted.decays,
            Kind::Apart => is_vector && !is_bias && !wanted.decays && module.is_some(),
            Kind::Kernel => wanted.shape.len() == 3,
            Kind::Matrix { .. } | Kind::Rows { .. } => wanted.shape.len() == 2,
            _ => false,
        };
        let node = &self.context.graph.nodes[used.node];
        let within = |module: &str| {
            let ends =
                |scope: &String| scope.strip_suffix(module).is_some_and(|before| before.is_empty() || before.ends_with('.'));
            [node.scope(), node.path()].iter().flatten().any(ends)
        };
        kind && self.shape(wanted, tensor, used) == wanted.shape && module.is_none_or(within)
    }

    /// Whether a tensor is negative throughout, as decays are whose exponential the exporter took, and nothing else of a module with some.
    fn has_sign(&self, wanted: &WantedTensor, module: &str, tensor: usize) -> bool {
        if !self.all.iter().any(|t| t.decays && self.own_module(t) == Some(module)) {
            return true;
        }
        let info = self.plain(tensor);
        let Some(view) = TensorView::new(&info, self.context.files, "") else { return false };
        let mut numbers = vec![f32::NAN; self.context.stored[tensor].count];
        let whole = info.shape.len() == 1 && view.read_rows(0..numbers.len(), &mut numbers).is_ok();
        whole && numbers.iter().all(|x| *x < 0.0) == wanted.decays
    }

    /// The module of a wanted tensor that is no module's `weight` or `bias`: the node that takes it is of that module.
    fn own_module<'w>(&self, wanted: &'w WantedTensor) -> Option<&'w str> {
        let name = wanted.name.strip_prefix(self.wanted.base.as_str()).unwrap_or(&wanted.name);
        name.rsplit_once('.').filter(|(_, end)| !matches!(*end, "weight" | "bias")).map(|(module, _)| module)
    }

    /// A stored tensor's shape as transformers has it.
    pub(super) fn shape(&self, wanted: &WantedTensor, tensor: usize, used: &Use) -> Vec<usize> {
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
            Kind::Kernel => match stored.dims.iter().copied().filter(|&n| n != 1).collect::<Vec<_>>()[..] {
                [channels, taps] => vec![channels, 1, taps],
                _ => stored.dims.clone(),
            },
            _ => vec![stored.count],
        }
    }

    /// No weight may be left over, since weights that are dropped in silence make a model that speaks gibberish.
    fn check_left(&self, names: &Names, tensors: &BTreeMap<String, TensorInfo>) -> Result<(), OnnxError> {
        for tensor in self.candidates().filter(|&i| !self.claimed[i] && self.context.stored[i].count > 1) {
            let (stored, uses) = (&self.context.stored[tensor], &self.uses[tensor]);
            let rotates =
                |name: &str| ["rotary", "pos_emb", "inv_freq", "cos_cache", "sin_cache"].iter().any(|part| name.contains(part));
            let weighs = |u: &&Use| {
                let node = &self.context.graph.nodes[u.node];
                u.kind != Kind::Constant
                    && !self.is_neutral(tensor, u)
                    && ![node.scope(), node.path()].iter().flatten().any(|name| rotates(name))
            };
            // What transformers multiplies Falcon-H1's rows with follows from the config.
            if rotates(&stored.name) || stored.name.ends_with(".mup_vector") {
                continue;
            }
            let used = match uses.iter().find(weighs) {
                Some(used) => self.context.graph.nodes[used.node].describe(),
                // Nothing takes it. A tensor with the name of a weight may be left from before the exporter made another of it.
                None if uses.is_empty() && stored.dims.iter().filter(|&&n| n != 1).count() > 1 => {
                    let copy = match names.find(&stored.name) {
                        Some(Match::Whole(i)) => tensors.get(&self.all[i].name),
                        _ => None,
                    };
                    let plain = self.plain(tensor);
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
        let claim = Claim::whole(tensor, used.clone());
        self.ambiguous(own, why, &[claim])
    }

    /// Why there is nothing for a wanted tensor.
    pub(super) fn missing(&self, wanted: usize) -> CheckpointError {
        let mut could = Vec::new();
        for tensor in self.candidates().filter(|&i| !self.claimed[i]) {
            for used in &self.uses[tensor] {
                if self.could_be(wanted, tensor, used) {
                    could.push(Claim::whole(tensor, used.clone()));
                }
            }
        }
        let own = |&i: &usize| self.context.stored[i].name == self.all[wanted].name;
        if could.is_empty() {
            return match self.candidates().find(own) {
                Some(i) => {
                    let nodes: Vec<String> = self.uses[i].iter().map(|u| self.context.graph.nodes[u.node].describe()).collect();
                    let nodes = if nodes.is_empty() { "none".into() } else { nodes.join(", ") };
                    let why = format!("a tensor is called so, but the nodes that take it ({nodes}) do not say how it lies");
                    self.ambiguous(wanted, why, &[]).into()
                }
                None if !self.wanted.tied && self.all[wanted].name == self.wanted.head => CheckpointError::NoHead {
                    path: self.file.into(),
                    head: self.wanted.head.clone(),
                    embedding: self.wanted.embedding.clone(),
                },
                None => {
                    let left: Vec<&str> =
                        self.candidates().filter(|&i| !self.claimed[i]).map(|i| self.context.stored[i].name.as_str()).collect();
                    let tensor = self.all[wanted].name.clone();
                    let nearest = Nearest::new(&tensor, &left, true);
                    CheckpointError::Missing { path: self.file.into(), tensor, nearest }
                }
            };
        }
        let why = format!("no name or scope says so, and {} could be", could.len());
        self.ambiguous(wanted, why, &could).into()
    }

    pub(super) fn ambiguous(&self, wanted: usize, why: String, claims: &[Claim]) -> OnnxError {
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
