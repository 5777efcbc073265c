//! [`Mapped`]: a file in memory that may be cut short while it is read.
//!
//! A page of a mapped file that is no longer in the file (or that the disk does not give) is answered by the system with
//! a signal, which ends a program that does not expect it. Here the rest of such a mapping reads as zeros from then on,
//! and [`Mapped::is_cut`] says so: whoever reads asks afterwards, and throws away what was read.

use memmap2::Mmap;
use std::fs::File;
use std::io;
use std::ops::Range;

/// A file that is mapped into memory, to be read.
#[derive(Debug)]
pub struct Mapped {
    map: Mmap,
    #[cfg(unix)]
    watch: watch::Watch,
}

impl Mapped {
    /// Maps all of a file.
    ///
    /// # Errors
    /// If the system does not.
    pub fn new(file: &File) -> io::Result<Self> {
        // SAFETY: the mapping is read-only. Where another program shortens the file, it reads as zeros (`watch`); where one
        // writes to it, bytes change, which fingerprints find out before anything is made of them.
        let map = unsafe { Mmap::map(file) }?;
        #[cfg(unix)]
        let watch = watch::Watch::new(map.as_ptr() as usize, map.len());
        Ok(Self {
            map,
            #[cfg(unix)]
            watch,
        })
    }

    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Whether a part that was read is not in the file any more, so that zeros were read in its place.
    pub fn is_cut(&self) -> bool {
        #[cfg(unix)]
        return self.watch.is_cut();
        #[cfg(not(unix))]
        false
    }

    /// Says that it will be read from front to back.
    pub fn advise_sequential(&self) {
        // Only a hint, so a refusal changes nothing.
        #[cfg(unix)]
        let _ = self.map.advise(memmap2::Advice::Sequential);
    }

    /// Drops the range's pages from this process; they come back from the file when they are read again.
    pub fn release(&self, range: Range<usize>) {
        // Whole pages within the range only, so that a neighbour's stay.
        const PAGE: usize = 4096;
        let (start, end) = (range.start.next_multiple_of(PAGE), range.end / PAGE * PAGE);
        #[cfg(unix)]
        if start < end {
            // SAFETY: a read-only mapping of a file: dropped pages come back from the file with the same content.
            // Only a hint, so a refusal changes nothing.
            let _ = unsafe { self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start) };
        }
    }
}

#[cfg(unix)]
mod watch {
    //! The list of mappings, and what is done where one of them is gone. All of it is atomics and system calls, as it has to
    //! be where a signal may come at any time.

    use std::ptr;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

    /// A place in the list, used again and never freed.
    struct Place {
        taken: AtomicBool,
        cut: AtomicBool,
        start: AtomicUsize,
        /// 0 while nothing is watched here.
        end: AtomicUsize,
        next: AtomicPtr<Place>,
    }

    static FIRST: AtomicPtr<Place> = AtomicPtr::new(ptr::null_mut());

    /// What the program did at this signal before.
    static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

    /// A mapping in the list, until it is dropped.
    #[derive(Debug)]
    pub(super) struct Watch(&'static Place);

    impl std::fmt::Debug for Place {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("Place").field("cut", &self.cut).finish_non_exhaustive()
        }
    }

    impl Watch {
        pub(super) fn new(start: usize, bytes: usize) -> Self {
            BEFORE.get_or_init(install);
            let place = free_place();
            place.cut.store(false, Ordering::Relaxed);
            place.start.store(start, Ordering::Relaxed);
            place.end.store(start + bytes, Ordering::Release);
            Self(place)
        }

        pub(super) fn is_cut(&self) -> bool {
            self.0.cut.load(Ordering::Acquire)
        }
    }

    impl Drop for Watch {
        fn drop(&mut self) {
            self.0.end.store(0, Ordering::Release);
            self.0.taken.store(false, Ordering::Release);
        }
    }

    fn places() -> impl Iterator<Item = &'static Place> {
        // SAFETY: places are never freed.
        let at = |pointer: *mut Place| unsafe { pointer.as_ref() };
        std::iter::successors(at(FIRST.load(Ordering::Acquire)), move |place| at(place.next.load(Ordering::Acquire)))
    }

    fn free_place() -> &'static Place {
        let take = |place: &&Place| place.taken.compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if let Some(place) = places().find(take) {
            return place;
        }
        let place: &'static mut Place = Box::leak(Box::new(Place {
            taken: AtomicBool::new(true),
            cut: AtomicBool::new(false),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            next: AtomicPtr::new(ptr::null_mut()),
        }));
        let pointer: *mut Place = place;
        let mut first = FIRST.load(Ordering::Acquire);
        loop {
            // SAFETY: `pointer` comes from a leaked box.
            let place = unsafe { &*pointer };
            place.next.store(first, Ordering::Release);
            match FIRST.compare_exchange(first, pointer, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return place,
                Err(other) => first = other,
            }
        }
    }

    fn install() -> libc::sigaction {
        // SAFETY: plain structs of the system's, zero being valid for each member; `on_signal` has the signature that
        // SA_SIGINFO asks for. On SA_ONSTACK: a thread with a stack for signals has it used.
        unsafe {
            let mut ours: libc::sigaction = std::mem::zeroed();
            let mut before: libc::sigaction = std::mem::zeroed();
            ours.sa_sigaction = on_signal as extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) as usize;
            ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&raw mut ours.sa_mask);
            libc::sigaction(libc::SIGBUS, &raw const ours, &raw mut before);
            before
        }
    }

    /// Puts zeros in place of what is gone, if it is a mapping of ours; does what was done before if not.
    extern "C" fn on_signal(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // SAFETY: the system passes a valid description of this signal.
        let address = unsafe { (*info).si_addr() } as usize;
        let here = |place: &&Place| {
            let end = place.end.load(Ordering::Acquire);
            (place.start.load(Ordering::Relaxed)..end).contains(&address)
        };
        if let Some(place) = places().find(here) {
            // SAFETY: asks for a number.
            let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096).max(1);
            let start = address / page * page;
            let bytes = (place.end.load(Ordering::Acquire) - start).next_multiple_of(page);
            place.cut.store(true, Ordering::Release);
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            // SAFETY: the range lies within a mapping of ours, whole pages to its end, which stays ours: zeros in place of
            // bytes of a file, both to be read only.
            let zeros = unsafe { libc::mmap(start as *mut libc::c_void, bytes, libc::PROT_READ, flags, -1, 0) };
            if zeros != libc::MAP_FAILED {
                return;
            }
        }
        // SAFETY: handlers that were installed before take these arguments; without one the signal comes again when
        // this function returns, and ends the program.
        unsafe {
            let before = BEFORE.get();
            match before.map(|b| (b.sa_sigaction, b.sa_flags)) {
                Some((handler, flags)) if handler != libc::SIG_DFL && handler != libc::SIG_IGN => {
                    if flags & libc::SA_SIGINFO != 0 {
                        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                            std::mem::transmute(handler);
                        handler(signal, info, context);
                    } else {
                        let handler: extern "C" fn(libc::c_int) = std::mem::transmute(handler);
                        handler(signal);
                    }
                }
                _ => {
                    libc::signal(signal, libc::SIG_DFL);
                }
            }
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn file(bytes: usize) -> (tempfile::TempDir, File) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), vec![7; bytes]).unwrap();
        let file = File::options().read(true).write(true).open(dir.path().join("a")).unwrap();
        (dir, file)
    }

    #[test]
    fn what_is_cut_off_reads_as_zeros_and_is_said() {
        let ((_a, cut), (_b, whole)) = (file(100_000), file(100_000));
        let (map, other) = (Mapped::new(&cut).unwrap(), Mapped::new(&whole).unwrap());
        assert_eq!((map.bytes()[99_999], map.is_cut()), (7, false));
        cut.set_len(5000).unwrap();
        assert_eq!((map.bytes()[4999], map.bytes()[99_999], map.bytes()[10_000]), (7, 0, 0));
        assert!(map.is_cut() && !other.is_cut());
        assert!(other.bytes().iter().all(|b| *b == 7));
        drop(map);
        // The place in the list is used again.
        assert!(!Mapped::new(&whole).unwrap().is_cut());
    }

    #[test]
    fn an_empty_file_is_a_mapping_of_nothing() {
        let (_dir, empty) = file(0);
        assert!(Mapped::new(&empty).unwrap().bytes().is_empty());
    }
}
