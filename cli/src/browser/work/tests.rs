use super::*;

/// A vocabulary of two, and somebody who listens.
fn work() -> (Work, mpsc::Receiver<Event>) {
    let (sender, events) = mpsc::channel(8);
    let assignment = Assignment { package: "packages/tiny/".into(), kv_cache: "auto", numerics: "exact" };
    (Work::new(assignment, 2, sender), events)
}

fn hello() -> Hello {
    Hello { adapter: "A".into(), user_agent: "B".into(), package: "packages/tiny/".into(), numerics: None }
}

fn rows(values: &[f32]) -> Bytes {
    values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>().into()
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

/// A score job of three tokens, after the greeting.
fn scoring() -> (Work, mpsc::Receiver<Event>) {
    let (work, mut events) = work();
    run(work.hello(hello())).unwrap();
    assert!(matches!(events.try_recv(), Ok(Event::Hello(_))));
    work.assign(Job::Score { ids: [1, 0, 1].into() });
    (work, events)
}

#[test]
fn jobs_are_written_as_the_page_reads_them() {
    let (work, _events) = scoring();
    let next = |work: &Work| serde_json::to_string(&run(work.next()).unwrap().unwrap()).unwrap();
    assert_eq!(next(&work), r#"{"id":1,"kind":"score","ids":[1,0,1]}"#);
    work.assign(Job::Greedy { prompt: [1].into(), max_new: 4 });
    assert_eq!(next(&work), r#"{"id":2,"kind":"greedy","prompt":[1],"maxNew":4}"#);
    work.end(true, "good");
    assert_eq!(next(&work), r#"{"kind":"done","passed":true,"summary":"good"}"#);
    assert_eq!(
        serde_json::to_string(work.assignment()).unwrap(),
        r#"{"package":"packages/tiny/","kvCache":"auto","numerics":"exact"}"#
    );
}

#[test]
fn a_job_that_is_handed_out_again_starts_over_and_no_row_counts_twice() {
    let (work, mut events) = scoring();
    run(async {
        work.rows(1, 0, rows(&[1.0, 2.0, 3.0, 4.0])).await.unwrap();
        assert!(matches!(work.next().await, Ok(Some(Next::Job { id: 1, .. }))), "asking again gives the same job");
        work.rows(1, 0, rows(&[1.0, 2.0])).await.unwrap();
        work.rows(1, 1, rows(&[3.0, 4.0, 5.0, 6.0])).await.unwrap();
        work.finish(1).await.unwrap();
    });
    let mut arrived = Vec::new();
    while let Ok(Event::Rows(bytes)) = events.try_recv() {
        arrived.extend_from_slice(&bytes);
    }
    assert_eq!(arrived, rows(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
}

#[test]
fn what_comes_late_is_refused_and_harms_nothing() {
    let (work, mut events) = scoring();
    let conflict = |result: Result<(), Refusal>| assert!(matches!(result, Err(Refusal::Conflict(_))), "{result:?}");
    conflict(run(work.hello(hello())));
    conflict(run(work.rows(0, 0, rows(&[1.0, 2.0]))));
    conflict(run(work.finish(2)));
    conflict(run(work.generated(7, vec![])));
    run(work.rows(1, 0, rows(&[0.0; 6]))).unwrap();
    run(work.finish(1)).unwrap();
    conflict(run(work.finish(1)));
    assert!(matches!(events.try_recv(), Ok(Event::Rows(_))));
    assert!(matches!(events.try_recv(), Ok(Event::Finished)));
    assert!(events.try_recv().is_err());
}

#[test]
fn what_makes_no_sense_ends_the_validation_with_its_numbers() {
    let refused = |act: fn(&Work) -> Result<(), Refusal>, text: &str| {
        let (work, mut events) = scoring();
        assert_eq!(act(&work), Err(Refusal::Bad(text.into())));
        let Ok(Event::Failed(BrowserError::Protocol(said))) = events.try_recv() else { panic!("{text}") };
        assert_eq!(said, text);
    };
    refused(|w| run(w.rows(1, 0, rows(&[1.0, 2.0, 3.0]))), "12 bytes of logits, which are not whole rows of 8 (2 f32)");
    refused(|w| run(w.rows(1, 0, Bytes::new())), "0 bytes of logits, which are not whole rows of 8 (2 f32)");
    refused(|w| run(w.rows(1, 1, rows(&[1.0, 2.0]))), "1 rows from position 1 on, where 0 of 3 had arrived");
    refused(|w| run(w.rows(1, 0, rows(&[0.0; 8]))), "4 rows from position 0 on, where 0 of 3 had arrived");
    refused(
        |w| run(w.rows(1, usize::MAX, rows(&[0.0; 2]))),
        &format!("1 rows from position {} on, where 0 of 3 had arrived", usize::MAX),
    );
    refused(|w| run(w.finish(1)), "job 1 has 0 rows of logits where 3 were expected");
    refused(|w| run(w.generated(1, vec![0])), "token ids for job 1, which generates nothing");
    let generating = |work: &Work| work.assign(Job::Greedy { prompt: [1].into(), max_new: 1 });
    let (work, _events) = scoring();
    generating(&work);
    let said = run(work.generated(2, vec![0, 1]));
    assert_eq!(said, Err(Refusal::Bad("2 new tokens where 1 at most were asked for".into())));
    let said = run(work.generated(2, vec![2]));
    assert_eq!(said, Err(Refusal::Bad("token 2 is outside the vocabulary of 2".into())));
    let said = run(work.rows(2, 0, rows(&[0.0; 2])));
    assert_eq!(said, Err(Refusal::Bad("rows of logits for job 2, which scores nothing".into())));
}

#[test]
fn a_page_that_waits_gets_work_as_soon_as_there_is_some() {
    let (work, mut events) = work();
    assert!(matches!(run(work.next()), Err(Refusal::Conflict(_))), "work comes after the greeting");
    run(work.hello(hello())).unwrap();
    assert!(matches!(events.try_recv(), Ok(Event::Hello(_))));
    let job = Job::Greedy { prompt: [0].into(), max_new: 1 };
    let next = std::thread::scope(|scope| {
        let page = scope.spawn(|| run(work.next()));
        work.assign(job.clone());
        page.join().unwrap()
    });
    assert_eq!(next, Ok(Some(Next::Job { id: 1, job })));
}

#[test]
fn nothing_is_taken_once_the_validation_has_ended() {
    let (work, events) = scoring();
    drop(events);
    assert_eq!(run(work.finish(1)), Err(Refusal::Conflict("the validation has ended".into())));
}
