//! Which of how many machines this one is: told, or known from the scheduler that started it.

use anyhow::{Context as _, bail};
use std::fmt;

/// A place among machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Which one; the first is 0.
    pub index: usize,
    /// How many there are.
    pub of: usize,
    /// The scheduler that said so.
    pub by: Option<&'static str>,
}

/// A scheduler's variables.
struct Scheduler {
    name: &'static str,
    index: &'static str,
    /// The number that the first machine has, or a variable of it.
    first: First,
    of: &'static str,
}

enum First {
    Is(usize),
    In(&'static str),
}

const SCHEDULERS: [Scheduler; 4] = [
    Scheduler {
        name: "Slurm",
        index: "SLURM_ARRAY_TASK_ID",
        first: First::In("SLURM_ARRAY_TASK_MIN"),
        of: "SLURM_ARRAY_TASK_COUNT",
    },
    // Kubernetes tells a pod its index alone: a manifest says the number.
    Scheduler { name: "Kubernetes", index: "JOB_COMPLETION_INDEX", first: First::Is(0), of: "JOB_COMPLETIONS" },
    Scheduler { name: "SkyPilot", index: "SKYPILOT_NODE_RANK", first: First::Is(0), of: "SKYPILOT_NUM_NODES" },
    Scheduler { name: "GitLab CI", index: "CI_NODE_INDEX", first: First::Is(1), of: "CI_NODE_TOTAL" },
];

impl Machine {
    /// From what was typed, or else from what `variable` says of the environment; one machine alone where nothing does.
    ///
    /// # Errors
    /// If an index has no number of machines, or is beyond it.
    pub fn new(index: Option<usize>, of: Option<usize>, variable: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        let number = |name: &str| -> anyhow::Result<Option<usize>> {
            let Some(text) = variable(name).filter(|text| !text.is_empty()) else { return Ok(None) };
            Ok(Some(text.parse().with_context(|| format!("{name} is {text:?}, and not a number of a machine"))?))
        };
        let scheduler = SCHEDULERS.iter().find(|s| variable(s.index).is_some_and(|text| !text.is_empty()));
        let (index, of, by) = match (index, scheduler) {
            (Some(index), _) => (index, of, None),
            (None, Some(scheduler)) => {
                let first = match scheduler.first {
                    First::Is(first) => first,
                    First::In(name) => number(name)?.unwrap_or(0),
                };
                let index = number(scheduler.index)?.unwrap_or(first);
                let Some(index) = index.checked_sub(first) else {
                    bail!("{} is {index}, and the first machine's number is {first}", scheduler.index);
                };
                let told = if of.is_some() { of } else { number(scheduler.of)? };
                let Some(of) = told else {
                    bail!(
                        "{} says that this is machine {index}, and nothing says of how many: --of does, or {}",
                        scheduler.index,
                        scheduler.of
                    );
                };
                (index, Some(of), Some(scheduler.name))
            }
            (None, None) if of.is_some_and(|of| of > 1) => {
                bail!("--of says how many machines there are, and nothing says which one this is: --index does, from 0 on")
            }
            (None, None) => (0, Some(1), None),
        };
        let Some(of) = of else { bail!("--index {index} says which machine this is, and nothing says of how many: --of does") };
        if index >= of {
            bail!("there is no machine {index} of {of}: the first is 0, the last {}", of.saturating_sub(1));
        }
        Ok(Self { index, of, by })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "machine {} of {}", self.index, self.of)?;
        self.by.map_or(Ok(()), |by| write!(f, " by {by}"))
    }
}

#[cfg(test)]
mod tests {
    use super::Machine;

    fn machine(index: Option<usize>, of: Option<usize>, variables: &[(&str, &str)]) -> Result<String, String> {
        let variable = |name: &str| variables.iter().find(|v| v.0 == name).map(|v| v.1.to_owned());
        Machine::new(index, of, &variable).map(|m| m.to_string()).map_err(|e| e.to_string())
    }

    #[test]
    fn schedulers_number_machines_as_they_like() {
        assert_eq!(machine(None, None, &[]).unwrap(), "machine 0 of 1");
        assert_eq!(machine(Some(2), Some(3), &[("JOB_COMPLETION_INDEX", "0")]).unwrap(), "machine 2 of 3");
        let slurm = [("SLURM_ARRAY_TASK_ID", "5"), ("SLURM_ARRAY_TASK_MIN", "3"), ("SLURM_ARRAY_TASK_COUNT", "4")];
        assert_eq!(machine(None, None, &slurm).unwrap(), "machine 2 of 4 by Slurm");
        assert_eq!(machine(None, Some(8), &[("JOB_COMPLETION_INDEX", "7")]).unwrap(), "machine 7 of 8 by Kubernetes");
        let sky = [("SKYPILOT_NODE_RANK", "0"), ("SKYPILOT_NUM_NODES", "2")];
        assert_eq!(machine(None, None, &sky).unwrap(), "machine 0 of 2 by SkyPilot");
        assert_eq!(
            machine(None, None, &[("CI_NODE_INDEX", "2"), ("CI_NODE_TOTAL", "2")]).unwrap(),
            "machine 1 of 2 by GitLab CI"
        );
        assert_eq!(machine(None, None, &[("CI_NODE_INDEX", "")]).unwrap(), "machine 0 of 1");
    }

    #[test]
    fn half_of_a_place_is_refused() {
        for (index, of, variables, says) in [
            (Some(1), None, &[][..], "--of does"),
            (None, Some(2), &[], "--index does"),
            (Some(2), Some(2), &[], "no machine 2 of 2: the first is 0, the last 1"),
            (None, None, &[("JOB_COMPLETION_INDEX", "1")], "JOB_COMPLETIONS"),
            (None, None, &[("JOB_COMPLETION_INDEX", "one")], "\"one\""),
            (None, None, &[("CI_NODE_INDEX", "0"), ("CI_NODE_TOTAL", "2")], "the first machine's number is 1"),
        ] {
            let said = machine(index, of, variables).unwrap_err();
            assert!(said.contains(says), "{says:?} is not in: {said}");
        }
    }
}
