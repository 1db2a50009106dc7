//! A person at a pseudo-terminal who is asked, and what their keys do.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use sotto_proto::v1;

use super::follow_ups::ID;
use super::json;
use super::service::{FakeNode, Lab, REVIEWED};

/// How long the program may take to show something.
const PATIENCE: Duration = Duration::from_mins(2);

const CTRL_C: &str = "\u{3}";
const HIDES_CURSOR: &str = "\u{1b}[?25l";
const SHOWS_CURSOR: &str = "\u{1b}[?25h";

/// What a person is shown and then types: each answer is followed by the next question.
const ANSWERS: &[(&str, &str)] = &[
    ("Case at this node:", "\r"),
    ("it is needed", "2026-17\r"),
    ("Legal basis:", "\r"),
    ("Purpose:", "jj\r"),
    ("Time limit:", "jj\r"),
    ("Offence code:", "two words\r"),
    ("never a text", "ICCS:0701\r"),
    ("The offence in words", "fraud\r\r"),
    ("Items asked for", "\r"),
    ("at least one", " jjjj \r"),
    ("Requesting unit:", "Unit 7\r"),
    ("Officer, and how to reach them:", "J. Jansen\r"),
    ("Part of the person:", "\r"),
    ("Facts", "first line\rsecond line\r\r"),
    ("What links", "the account\r\r"),
    ("Why the data are believed", "it matched\r\r"),
    ("Restrictions on the use", "\r"),
    ("Language of the texts", "en\r"),
    ("Draft this request?", "y"),
];

/// A program at a terminal, and the person before it.
struct Seat {
    program: Child,
    /// The person's side.
    terminal: File,
    screen: Receiver<Vec<u8>>,
    shown: Vec<u8>,
    /// How much of it was waited for.
    seen: usize,
}

impl Seat {
    /// A command about a follow-up.
    fn at_followup(lab: &Lab, args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sotto-node"));
        command
            .args(["followup", "--output", "json"])
            .args(args)
            .env("SOTTO_NODE_CLIENT", lab.client_file());
        Self::start(command)
    }

    /// Runs a command whose standard input and standard error are a terminal.
    fn start(mut command: Command) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let person = openpt(flags).expect("a terminal");
        grantpt(&person).expect("granted");
        unlockpt(&person).expect("unlocked");
        let name = ptsname(&person, Vec::<u8>::new()).expect("a name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let line = open(name.as_c_str(), flags, Mode::empty()).expect("opened");
        command
            .stdin(line.try_clone().expect("cloned"))
            .stdout(Stdio::piped())
            .stderr(line);
        let program = command.spawn().expect("started");
        // It holds the program's side: the screen ends when the program alone lets go of that.
        drop(command);
        let terminal = File::from(person);
        let mut reader = terminal.try_clone().expect("cloned");
        let (sender, screen) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self {
            program,
            terminal,
            screen,
            shown: Vec::new(),
            seen: 0,
        }
    }

    /// Takes what is shown next; `false` once the program has let go of the terminal.
    fn look(&mut self) -> bool {
        match self.screen.recv_timeout(PATIENCE) {
            Ok(more) => {
                self.shown.extend(more);
                true
            }
            Err(RecvTimeoutError::Disconnected) => false,
            Err(RecvTimeoutError::Timeout) => panic!("nothing more is shown: {}", self.text()),
        }
    }

    /// Waits until a text is shown behind the one that was waited for before.
    fn wait_for(&mut self, text: &str) {
        loop {
            let mut behind = self.shown[self.seen..].windows(text.len());
            if let Some(at) = behind.position(|shown| shown == text.as_bytes()) {
                self.seen += at + text.len();
                return;
            }
            assert!(self.look(), "{text} is not shown: {}", self.text());
        }
    }

    fn press(&mut self, keys: &str) {
        self.terminal.write_all(keys.as_bytes()).expect("typed");
    }

    /// Presses Ctrl-C once the program reads single keys: before that it would be the terminal's.
    async fn interrupt(&mut self) {
        let reads_keys = async {
            while tcgetattr(&self.terminal)
                .expect("a terminal")
                .local_modes
                .contains(LocalModes::ISIG)
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, reads_keys).await;
        waited.expect("the program reads keys");
        self.press(CTRL_C);
    }

    /// Everything that was shown until the program's end, and how it ended.
    fn end(mut self) -> (String, Output) {
        while self.look() {}
        let shown = self.text();
        (shown, self.program.wait_with_output().expect("ended"))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown).into_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gives_no_form_is_asked_step_by_step_and_confirms_what_is_drafted() {
    let lab = Lab::start(FakeNode::default()).await;
    let mut seat = Seat::at_followup(&lab, &["new", REVIEWED]);
    for (question, keys) in ANSWERS {
        seat.wait_for(question);
        seat.press(keys);
    }
    let (shown, output) = seat.end();
    assert!(output.status.success(), "{shown}");
    assert!(json(&output)["follow_up"].is_string());
    assert!(
        shown.rfind(SHOWS_CURSOR) > shown.rfind(HIDES_CURSOR),
        "{shown}"
    );
    // All of it is read before it is confirmed.
    let (_, read) = shown.split_once("A request about hit").expect("shown");
    assert!(read.contains("second line") && read.contains("IDENTITY, ADDRESSES"));

    let drafted = lab.node.asked().drafted;
    assert_eq!(drafted.len(), 1);
    assert_eq!(drafted[0].case_ref, "2026-17");
    let draft = drafted[0].draft.clone().expect("a draft");
    let terms = draft.terms.expect("terms");
    assert_eq!(terms.time_limit(), v1::TimeLimit::Ordinary);
    assert_eq!(terms.offence_code, "ICCS:0701");
    let items = [v1::FollowUpItem::Identity, v1::FollowUpItem::Addresses];
    assert_eq!(terms.items, items.map(i32::from));
    let particulars = draft.particulars.expect("particulars");
    assert_eq!(particulars.legal_basis(), v1::LegalBasis::Eu2023977);
    assert_eq!(particulars.purpose(), v1::Purpose::Investigation);
    assert_eq!(particulars.person_role(), v1::PersonRole::Suspect);
    assert_eq!(particulars.facts, "first line\nsecond line");
    assert_eq!(particulars.language, "en");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_that_is_interrupted_keeps_nothing_and_gives_the_cursor_back() {
    let lab = Lab::start(FakeNode::default()).await;
    // At a line, in lists, which hide the cursor, and at the end.
    for at in [
        "it is needed",
        "Purpose:",
        "Items asked for",
        "Draft this request?",
    ] {
        let mut seat = Seat::at_followup(&lab, &["new", REVIEWED]);
        for (question, keys) in ANSWERS {
            seat.wait_for(question);
            if *question == at {
                break;
            }
            seat.press(keys);
        }
        seat.interrupt().await;
        let (shown, output) = seat.end();
        assert_eq!(output.status.code(), Some(1), "{at}: {shown}");
        assert!(shown.contains("interrupted; nothing was kept"), "{shown}");
        assert_eq!(shown.contains(HIDES_CURSOR), at != "it is needed");
        assert!(
            shown.rfind(SHOWS_CURSOR) > shown.rfind(HIDES_CURSOR),
            "{shown}"
        );
        assert!(output.stdout.is_empty());
    }
    assert!(lab.node.asked().drafted.is_empty() && lab.node.changes().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_withdrawn_by_who_says_yes_and_by_nobody_else() {
    let lab = Lab::start(FakeNode::default()).await;
    for keys in ["n", "\r", CTRL_C] {
        let mut seat = Seat::at_followup(&lab, &["withdraw", ID]);
        seat.wait_for("cannot be taken up again");
        if keys == CTRL_C {
            seat.interrupt().await;
        } else {
            seat.press(keys);
        }
        let (shown, output) = seat.end();
        assert_eq!(output.status.code(), Some(1), "{shown}");
        assert!(shown.contains("not withdrawn") || shown.contains("interrupted"));
    }
    assert!(lab.node.asked().ended.is_empty());
    let mut seat = Seat::at_followup(&lab, &["withdraw", ID]);
    seat.wait_for("cannot be taken up again");
    seat.press("y");
    let (shown, output) = seat.end();
    assert!(output.status.success(), "{shown}");
    let ended = lab.node.asked().ended;
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].step(), v1::FollowUpStep::Withdraw);
}
