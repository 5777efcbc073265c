//! Runs a target without libFuzzer: changes inputs, keeps those that are answered in a new way, and holds each to bounds.
//!
//! Inputs run in a child process, which writes each into a file before it runs it: where one kills the process (a stack that
//! overflows, memory that is refused), the parent finds it there. The answer to an input stands in for coverage: a
//! message that is new but for numbers and for words of the input itself.

use crate::memory::{self, MOST_BYTES};
use crate::mutate::Mutator;
use crate::random::Random;
use crate::target::{FOLDER, Outcome, Target, scratch};
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// What an input may take of a processor.
const MOST_TIME: Duration = Duration::from_secs(2);

/// After so long without the next input, one waits for something that does not come.
const SILENCE: Duration = Duration::from_secs(20);

/// As much as threads of the product have.
const STACK: usize = 2 << 20;

/// Inputs that are kept to make others of.
const MOST_KEPT: usize = 4096;

/// Inputs that allocate more than this altogether are not kept: they would be most of the work.
const MOST_KEPT_WORK: usize = 8 << 20;

/// Messages that are told apart.
const MOST_MESSAGES: usize = 1 << 17;

/// Ends of the child before a run is given up.
const MOST_DEATHS: usize = 40;

/// Panics since an input began.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Bytes of the file before the input: numbers of 8 bytes.
const HEAD: usize = 8 * 8;

/// Where a child is, and what it has found.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    inputs: u64,
    accepted: u64,
    kept: u64,
    /// Longest time of an input, in ns.
    time: u64,
    /// Most memory of an input.
    memory: u64,
    /// Panics that the library itself caught.
    caught: u64,
    findings: u64,
    /// Bytes of the input that is running.
    length: u64,
}

impl Progress {
    fn numbers(&self) -> [u64; 8] {
        [self.inputs, self.accepted, self.kept, self.time, self.memory, self.caught, self.findings, self.length]
    }

    fn write(&self, file: &File, input: &[u8], buffer: &mut Vec<u8>) {
        buffer.clear();
        buffer.extend(self.numbers().iter().flat_map(|n| n.to_le_bytes()));
        buffer.extend(input);
        file.write_all_at(buffer, 0).expect("the file of the input");
    }

    fn read(path: &Path) -> (Self, Vec<u8>) {
        let bytes = fs::read(path).unwrap_or_default();
        let number = |i: usize| bytes.get(8 * i..8 * i + 8).map_or(0, |b| u64::from_le_bytes(b.try_into().unwrap_or_default()));
        let [inputs, accepted, kept, time, memory, caught, findings, length] = std::array::from_fn(number);
        let input = bytes.get(HEAD..HEAD + length as usize).unwrap_or_default().to_vec();
        (Self { inputs, accepted, kept, time, memory, caught, findings, length }, input)
    }

    /// Both of two children, one after the other.
    fn and(self, next: Self) -> Self {
        Self {
            inputs: self.inputs + next.inputs,
            accepted: self.accepted + next.accepted,
            kept: self.kept.max(next.kept),
            time: self.time.max(next.time),
            memory: self.memory.max(next.memory),
            caught: self.caught + next.caught,
            findings: self.findings + next.findings,
            length: 0,
        }
    }
}

/// What was asked for.
struct Options {
    seconds: f64,
    inputs: u64,
    seed: u64,
    out: PathBuf,
    run: Vec<PathBuf>,
    minimize: Option<PathBuf>,
    seeds_to: Option<PathBuf>,
    child: Option<PathBuf>,
}

const USAGE: &str = "\
  --seconds N       stop after so long (60)
  --inputs N        stop after so many inputs
  --seed N          other inputs (1); the same seed gives the same inputs
  --out DIR         where inputs go that break a bound (fuzz/findings)
  --run FILE...     run these inputs alone, and say how each is answered
  --minimize FILE   make an input smaller that breaks a bound
  --seeds DIR       write the inputs to begin with, for cargo fuzz";

impl Options {
    fn read() -> Result<Self, String> {
        let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("findings");
        let mut this =
            Self { seconds: 60.0, inputs: u64::MAX, seed: 1, out, run: Vec::new(), minimize: None, seeds_to: None, child: None };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            let wrong = |e: &dyn std::fmt::Display| format!("{word}: {e}");
            match word.as_str() {
                "--seconds" => this.seconds = value()?.parse().map_err(|e| wrong(&e))?,
                "--inputs" => this.inputs = value()?.parse().map_err(|e| wrong(&e))?,
                "--seed" => this.seed = value()?.parse().map_err(|e| wrong(&e))?,
                "--out" => this.out = value()?.into(),
                "--minimize" => this.minimize = Some(value()?.into()),
                "--seeds" => this.seeds_to = Some(value()?.into()),
                "--child" => this.child = Some(value()?.into()),
                "--run" => this.run = words.by_ref().map(PathBuf::from).collect(),
                _ => return Err(format!("{word} is no option")),
            }
        }
        Ok(this)
    }
}

/// The program of a target.
pub fn main(target: &'static Target) -> ExitCode {
    let options = match Options::read() {
        Ok(options) => options,
        Err(why) => {
            eprintln!("{}: {why}\n{USAGE}", target.name);
            return ExitCode::from(2);
        }
    };
    let done = match &options {
        Options { child: Some(state), .. } => within_stack(|| child(target, &options, state)),
        Options { seeds_to: Some(folder), .. } => write_seeds(target, folder),
        Options { minimize: Some(file), .. } => minimize(target, file),
        Options { run, .. } if !run.is_empty() => within_stack(|| run_files(target, run)),
        _ => parent(target, &options),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("{}: {error}", target.name);
            ExitCode::from(2)
        }
    }
}

type Done = std::io::Result<bool>;

/// On a thread with as much stack as those of the product have.
fn within_stack(work: impl FnOnce() -> Done + Send) -> Done {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|_| Err(std::io::Error::other("the driver itself panicked")))
    })
}

fn start(target: &Target, folder: &Path, arguments: &[&str]) -> std::io::Result<Child> {
    let files = folder.join("files");
    let _ = fs::remove_dir_all(&files);
    fs::create_dir_all(&files)?;
    let errors = File::create(folder.join("stderr"))?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
    // One thread computes: an input then takes the same each time.
    command.env(FOLDER, files).env("RAYON_NUM_THREADS", "1").env("RUST_BACKTRACE", "0");
    command.spawn().map_err(|e| std::io::Error::new(e.kind(), format!("{}: {e}", target.name)))
}

/// Runs children until time or inputs are used up, and says what came of it.
fn parent(target: &Target, options: &Options) -> Done {
    let folder = scratch()?;
    let state = folder.join("state");
    let begin = Instant::now();
    let (mut all, mut deaths, mut keys) = (Progress::default(), 0, HashSet::new());
    loop {
        let (seconds, inputs) = (options.seconds - begin.elapsed().as_secs_f64(), options.inputs.saturating_sub(all.inputs));
        if seconds <= 0.0 || inputs == 0 || deaths > MOST_DEATHS {
            break;
        }
        fs::write(&state, [0; HEAD])?;
        let seed = options.seed.wrapping_add(1_000_003 * deaths as u64);
        let words = [seconds.to_string(), inputs.to_string(), seed.to_string()];
        let (out, place) = (options.out.to_string_lossy(), state.to_string_lossy());
        let arguments = ["--child", &place, "--seconds", &words[0], "--inputs", &words[1], "--seed", &words[2], "--out", &out];
        let child = start(target, &folder, &arguments)?;
        let ended = wait(child, &state)?;
        let (progress, input) = Progress::read(&state);
        all = all.and(progress);
        if let Some(how) = ended {
            deaths += 1;
            let key = format!("{how}: {}", last_line(&folder));
            if keys.insert(signature(&key, &input)) {
                all.findings += 1;
                keep_finding(target, &options.out, &key, &input)?;
            }
        }
    }
    fs::remove_dir_all(&folder)?;
    let seconds = begin.elapsed().as_secs_f64();
    let Progress { inputs, accepted, kept, time, memory, caught, findings, .. } = all;
    println!(
        "| {} | {inputs} | {seconds:.0} | {accepted} | {kept} | {:.0} | {:.1} | {caught} | {findings} |",
        target.name,
        time as f64 / 1e6,
        memory as f64 / f64::from(1 << 20),
    );
    if deaths > MOST_DEATHS {
        eprintln!("{}: given up after {deaths} ends of the process", target.name);
    }
    Ok(findings == 0)
}

/// The end of a child: how it was killed, or nothing where it ended by itself.
fn wait(mut child: Child, state: &Path) -> std::io::Result<Option<String>> {
    let (mut last, mut since) = (u64::MAX, Instant::now());
    loop {
        std::thread::sleep(Duration::from_millis(20));
        if let Some(status) = child.try_wait()? {
            return Ok(match (status.code(), status.signal()) {
                (Some(0 | 1), _) => None,
                (_, Some(signal)) => Some(format!("killed by signal {signal}")),
                (code, _) => Some(format!("exit code {}", code.unwrap_or(-1))),
            });
        }
        let inputs = Progress::read(state).0.inputs;
        if inputs != last {
            (last, since) = (inputs, Instant::now());
        } else if since.elapsed() > SILENCE {
            child.kill()?;
            child.wait()?;
            return Ok(Some(format!("no answer for {} s", SILENCE.as_secs())));
        }
    }
}

fn last_line(folder: &Path) -> String {
    let said = fs::read(folder.join("stderr")).unwrap_or_default();
    String::from_utf8_lossy(&said).lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().to_owned()
}

/// Keeps an input that breaks a bound, with what it breaks.
fn keep_finding(target: &Target, out: &Path, key: &str, input: &[u8]) -> std::io::Result<()> {
    fs::create_dir_all(out)?;
    let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let path = out.join(format!("{}-{:08x}", target.name, hash as u32));
    fs::write(&path, input)?;
    fs::write(path.with_extension("txt"), format!("{key}\n"))?;
    eprintln!("{}: {}: {key}", target.name, path.display());
    Ok(())
}

/// How one input went.
struct Ran {
    outcome: Outcome,
    time: Duration,
    taken: memory::Taken,
    /// The bound that it broke.
    broke: Option<String>,
    /// A panic that the library caught itself.
    caught: Option<String>,
}

/// Time that this process has been computing; what else the machine does meanwhile does not count.
fn computed() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the system writes to a place that is there.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn panics() -> std::sync::MutexGuard<'static, Vec<String>> {
    PANICS.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn run_one(target: &Target, input: &[u8]) -> Ran {
    panics().clear();
    let before = computed();
    let (result, taken) = memory::counted(|| catch_unwind(AssertUnwindSafe(|| (target.run)(input))));
    let time = computed() - before;
    let panicked = panics().first().cloned();
    let (outcome, broke, caught) = match (result, panicked) {
        (Err(_), said) => (Err("panicked".to_owned()), Some(format!("panic: {}", said.unwrap_or_default())), None),
        (Ok(outcome), caught) => (outcome, None, caught),
    };
    let over_memory = || taken.over.then(|| format!("over {MOST_BYTES} bytes of memory: {}", words(&outcome)));
    let over_time = || (time > MOST_TIME).then(|| format!("over {} s: {}", MOST_TIME.as_secs(), words(&outcome)));
    let broke = broke.or_else(over_memory).or_else(over_time);
    Ran { outcome, time, taken, broke, caught }
}

fn words(outcome: &Outcome) -> String {
    match outcome {
        Ok(text) => format!("accepted, {text}"),
        Err(text) => format!("refused, {text}"),
    }
}

fn remember_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map_or_else(String::new, |l| format!("{}:{}", l.file(), l.line()));
        let payload = info.payload();
        let said = payload.downcast_ref::<&str>().map(|s| (*s).to_owned()).or_else(|| payload.downcast_ref::<String>().cloned());
        panics().push(format!("{place}: {}", said.unwrap_or_default()));
    }));
}

/// Runs inputs until time or inputs are used up.
fn child(target: &Target, options: &Options, state: &Path) -> Done {
    remember_panics();
    let file = File::options().write(true).open(state)?;
    let end = Instant::now() + Duration::from_secs_f64(options.seconds.min(1e6));
    let mut random = Random::new(options.seed);
    let seeds = (target.seeds)();
    let mut corpus: Vec<Vec<u8>> = Vec::new();
    let (mut progress, mut buffer, mut seen, mut broken) = (Progress::default(), Vec::new(), Seen::default(), HashSet::new());
    let mut input = Vec::new();
    while progress.inputs < options.inputs {
        // The clock costs more than some inputs.
        if progress.inputs.is_multiple_of(16) && Instant::now() > end {
            break;
        }
        let first = seeds.get(progress.inputs as usize);
        match first {
            Some(seed) => input.clone_from(seed),
            None => {
                let empty = Vec::new();
                // The last ones were made of others, and lead further.
                let recent = corpus.len().saturating_sub(64);
                let from =
                    if random.one_in(3) { recent + random.below(corpus.len() - recent) } else { random.below(corpus.len()) };
                input.clone_from(corpus.get(from).unwrap_or(&empty));
                let other = corpus.get(random.below(corpus.len())).unwrap_or(&empty);
                let random = Random::new(random.number());
                let mut mutator = Mutator { random, dictionary: target.dictionary, other, most_bytes: target.most_bytes };
                (target.mutate)(&mut input, &mut mutator);
            }
        }
        progress.length = input.len() as u64;
        progress.write(&file, &input, &mut buffer);
        let ran = run_one(target, &input);
        progress.inputs += 1;
        progress.accepted += u64::from(ran.outcome.is_ok());
        progress.time = progress.time.max(ran.time.as_nanos() as u64);
        progress.memory = progress.memory.max(ran.taken.peak as u64);
        if let Some(caught) = &ran.caught {
            progress.caught += 1;
            if broken.insert(signature(caught, &input)) {
                keep_finding(target, &options.out.join("caught"), &format!("panic that the library caught: {caught}"), &input)?;
            }
        }
        if let Some(key) = &ran.broke
            && broken.insert(signature(key, &input))
        {
            progress.findings += 1;
            keep_finding(target, &options.out, key, &input)?;
        }
        let is_new = seen.is_new(&ran.outcome, &input) && ran.broke.is_none() && ran.taken.total < MOST_KEPT_WORK;
        if first.is_some() || is_new {
            match corpus.len() < MOST_KEPT {
                true => corpus.push(std::mem::take(&mut input)),
                // Seeds stay.
                false => {
                    let at = seeds.len().min(MOST_KEPT - 1);
                    corpus[at + random.below(MOST_KEPT - at)] = std::mem::take(&mut input);
                }
            }
            progress.kept = corpus.len() as u64;
        }
    }
    progress.length = 0;
    progress.write(&file, &[], &mut buffer);
    Ok(progress.findings == 0)
}

/// Answers so far.
#[derive(Default)]
struct Seen {
    /// Without their numbers: most come again and again.
    messages: HashSet<String>,
    signatures: HashSet<String>,
}

impl Seen {
    fn is_new(&mut self, outcome: &Outcome, input: &[u8]) -> bool {
        let text = words(outcome);
        let plain = without_numbers(&text);
        if self.messages.contains(&plain) {
            return false;
        }
        // Enough is known by then.
        if self.messages.len() >= MOST_MESSAGES {
            return false;
        }
        self.messages.insert(plain);
        self.signatures.insert(signature(&text, input))
    }
}

fn without_numbers(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '0'..='9' if out.ends_with('#') => {}
            '0'..='9' => out.push('#'),
            c => out.push(c),
        }
    }
    out
}

/// A message without its numbers, and without words that are the input's own.
fn signature(text: &str, input: &[u8]) -> String {
    let input = String::from_utf8_lossy(input);
    let own = |word: &str| word.len() > 2 && input.contains(word);
    let mut out = String::new();
    for word in text.split(|c: char| !c.is_ascii_alphabetic()).filter(|w| !w.is_empty()).take(40) {
        if !own(word) {
            out.push_str(word);
            out.push(' ');
        }
    }
    out
}

/// Says how files are answered.
fn run_files(target: &Target, files: &[PathBuf]) -> Done {
    remember_panics();
    let mut good = true;
    for path in files {
        let ran = run_one(target, &fs::read(path)?);
        let (time, memory) = (ran.time.as_secs_f64() * 1e3, ran.taken.peak as f64 / f64::from(1 << 20));
        println!("{}: {} ({time:.1} ms, {memory:.1} MB)", path.display(), words(&ran.outcome));
        if let Some(caught) = ran.caught {
            println!("caught by the library: {caught}");
        }
        if let Some(broke) = ran.broke {
            println!("{broke}");
            good = false;
        }
    }
    Ok(good)
}

fn write_seeds(target: &Target, folder: &Path) -> Done {
    fs::create_dir_all(folder)?;
    for (i, seed) in (target.seeds)().iter().enumerate() {
        fs::write(folder.join(format!("{i:03}")), seed)?;
    }
    Ok(true)
}

/// The bound that an input breaks in a process of its own.
fn broken_by(target: &Target, folder: &Path, input: &[u8]) -> std::io::Result<Option<String>> {
    let (file, state) = (folder.join("input"), folder.join("state"));
    fs::write(&file, input)?;
    fs::write(&state, [0; HEAD])?;
    let mut child = start(target, folder, &["--run", &file.to_string_lossy()])?;
    let out = child.stdout.take();
    let ended = wait(child, &state)?;
    let said = std::io::read_to_string(out.expect("it is piped")).unwrap_or_default();
    let plain = |text: &str| text.split(": ").next().unwrap_or_default().to_owned();
    Ok(match ended {
        Some(how) => Some(signature(&format!("{how}: {}", last_line(folder)), b"")),
        None => {
            let lines: Vec<&str> = said.lines().collect();
            let broke = lines.last().filter(|l| l.starts_with("panic: ") || l.starts_with("over "));
            broke.map(|line| if line.starts_with("panic") { signature(line, b"") } else { plain(line) })
        }
    })
}

/// Leaves out parts of an input as long as it breaks the same bound.
fn minimize(target: &Target, file: &Path) -> Done {
    let folder = scratch()?;
    let mut best = fs::read(file)?;
    let Some(key) = broken_by(target, &folder, &best)? else {
        println!("{} breaks no bound", file.display());
        fs::remove_dir_all(&folder)?;
        return Ok(true);
    };
    let mut size = best.len().next_power_of_two() / 2;
    while size > 0 {
        let (mut at, mut any) = (0, false);
        while at < best.len() {
            let end = (at + size).min(best.len());
            let less = [&best[..at], &best[end..]].concat();
            if broken_by(target, &folder, &less)?.as_ref() == Some(&key) {
                (best, any) = (less, true);
            } else {
                at = end;
            }
        }
        if !(any && size == 1) {
            size /= 2;
        }
    }
    fs::remove_dir_all(&folder)?;
    let to = file.with_extension("min");
    File::create(&to)?.write_all(&best)?;
    println!("{}: {} bytes: {key}", to.display(), best.len());
    Ok(false)
}
