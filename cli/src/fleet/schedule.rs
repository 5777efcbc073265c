//! Who does which job: the longest first, each to the machine with the least to do.

use super::list::Job;
use std::cmp::Reverse;

/// How many times as long as one without a conversion with calibration takes, about.
const CALIBRATED: u64 = 20;

/// What a job takes, in bytes to read and round; of jobs whose size nobody knows, the mean of the others.
pub fn costs(jobs: &[Job]) -> Vec<u64> {
    let known: Vec<u64> = jobs.iter().filter_map(|job| job.bytes).collect();
    let mean = known.iter().sum::<u64>().checked_div(known.len() as u64).unwrap_or(1);
    let factor = |job: &Job| if job.recipe.calibrate { CALIBRATED } else { 1 };
    jobs.iter().map(|job| job.bytes.unwrap_or(mean).max(1).saturating_mul(factor(job))).collect()
}

/// The jobs of each of `machines` by their places, longest first. Machines get the same answer from the same costs.
pub fn schedule(costs: &[u64], machines: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..costs.len()).collect();
    order.sort_by_key(|&job| Reverse(costs[job]));
    let mut of: Vec<(u64, Vec<usize>)> = vec![Default::default(); machines];
    for job in order {
        if let Some((load, jobs)) = of.iter_mut().min_by_key(|(load, _)| *load) {
            *load = load.saturating_add(costs[job]);
            jobs.push(job);
        }
    }
    of.into_iter().map(|(_, jobs)| jobs).collect()
}

#[cfg(test)]
mod tests {
    use super::schedule;

    #[test]
    fn the_longest_go_first_and_no_machine_waits() {
        assert_eq!(schedule(&[1, 7, 3, 5, 2], 2), [vec![1, 4], vec![3, 2, 0]]);
        assert_eq!(schedule(&[4, 4, 4], 1), [vec![0, 1, 2]]);
        assert_eq!(schedule(&[9], 3), [vec![0], vec![], vec![]]);
        // Longest first loses at most a third against the best order.
        let costs: Vec<u64> = (1..=1000_u64).map(|i| i * 7919 % 1009 + 1).collect();
        let machines = schedule(&costs, 16);
        let load = |jobs: &Vec<usize>| jobs.iter().map(|&j| costs[j]).sum::<u64>();
        let (most, all) = (machines.iter().map(load).max().unwrap(), costs.iter().sum::<u64>());
        assert!(most <= all / 16 + 1009 && machines.iter().flatten().count() == 1000);
    }
}
