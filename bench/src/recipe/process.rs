//! A broker started by a recipe, from start to stop.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{Greeting, Place, Recipe, Secured, greeting};
use crate::url::Url;

/// How long a broker may take until it greets.
const READY: Duration = Duration::from_secs(60);
/// How long it may take to stop before it is killed.
const STOP: Duration = Duration::from_secs(30);
/// Between two looks.
const STEP: Duration = Duration::from_millis(50);
/// How often to try again where somebody else took a port in between.
const TRIES: usize = 3;
/// Lines of a log that an error repeats.
const TOLD: usize = 8;

/// Why a broker does not run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It is not there.
    #[error("{name} is not installed: {install}")]
    NotInstalled {
        /// Which.
        name: &'static str,
        /// How to get it.
        install: &'static str,
    },
    /// It cannot be measured.
    #[error("{name} speaks {protocol}, for which this program has no driver yet")]
    NoDriver {
        /// Which.
        name: &'static str,
        /// What it speaks.
        protocol: &'static str,
    },
    /// It ended before it greeted.
    #[error("{name} ended at once ({status}){log}")]
    Ended {
        /// Which.
        name: &'static str,
        /// How.
        status: ExitStatus,
        /// The end of what it wrote.
        log: String,
    },
    /// It never greeted.
    #[error("{name} was not ready after {} s: {error}{log}", READY.as_secs())]
    NotReady {
        /// Which.
        name: &'static str,
        /// What came in place of a greeting.
        error: io::Error,
        /// The end of what it wrote.
        log: String,
    },
    /// The system refused something.
    #[error("{0}: {1}")]
    System(String, io::Error),
}

/// A broker that runs; it ends when this is dropped.
#[derive(Debug)]
pub struct Running {
    /// What it says of itself.
    pub greeting: Greeting,
    /// Where it is.
    pub url: Url,
    /// Its port without TLS.
    pub plain_port: u16,
    /// The arguments that it was started with, without what changes with every start.
    pub options: String,
    // In the order in which they end: the broker, what it needs, its files.
    broker: Process,
    needed: Vec<Process>,
    directory: TempDir,
}

impl Running {
    /// Starts a recipe's broker and waits until it greets. It also ends when the thread that calls this ends.
    ///
    /// # Errors
    /// It is not installed, cannot be measured, or does not come up.
    pub fn start(recipe: &'static Recipe) -> Result<Running, StartError> {
        let name = recipe.name;
        let (program, commands) = recipe.ready()?;
        let mut tried = 0;
        loop {
            tried += 1;
            let system = |error| StartError::System(format!("{name} cannot be started"), error);
            let directory = TempDir::with_prefix("fulmar-bench-").map_err(system)?;
            let [port, one, two, three] = free_ports().map_err(system)?;
            let tls = match recipe.tls {
                true => Some(Secured::make(directory.path(), three).map_err(|error| {
                    StartError::System(format!("{name} has no certificate: openssl"), error)
                })?),
                false => None,
            };
            let place = Place {
                program: program.clone(),
                directory: directory.path().to_path_buf(),
                port,
                further_ports: [one, two],
                tls,
            };
            match launch(recipe, commands(&place), &place, directory) {
                Err(StartError::Ended { .. }) if tried < TRIES => (),
                done => return done,
            }
        }
    }

    /// The broker's process.
    pub fn pid(&self) -> u32 {
        self.broker.child.id()
    }

    /// All processes: the broker's and those that it needs.
    pub fn pids(&self) -> Vec<u32> {
        self.needed.iter().chain([&self.broker]).map(|process| process.child.id()).collect()
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

fn launch(
    recipe: &Recipe,
    commands: Vec<Command>,
    place: &Place,
    directory: TempDir,
) -> Result<Running, StartError> {
    let (name, protocol) = (recipe.name, recipe.protocol);
    let log = place.directory.join("output.log");
    let options = told_options(commands.last(), place);
    let mut started = Vec::new();
    for command in commands {
        let what = command.get_program().to_string_lossy().into_owned();
        let process = Process::start(command, &log).map_err(|error| StartError::System(what, error))?;
        started.push(process);
    }
    let mut broker = started.pop().expect("a recipe starts something");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, place.port));
    let began = Instant::now();
    let greeting = loop {
        if let Some(status) = broker.ended() {
            return Err(StartError::Ended { name, status, log: end_of(&log) });
        }
        match greeting(protocol, address, Duration::from_secs(2)) {
            Ok(greeting) => break greeting,
            Err(error) if began.elapsed() > READY => {
                return Err(StartError::NotReady { name, error, log: end_of(&log) });
            }
            Err(_) => std::thread::sleep(STEP),
        }
    };
    let tls = place.tls.as_ref();
    let port = tls.map_or(place.port, |secured| secured.port);
    let tls = tls.map(|secured| Box::new(secured.client()));
    let url = Url { protocol, port, tls, ..Url::default() };
    Ok(Running { greeting, url, plain_port: place.port, options, broker, needed: started, directory })
}

/// Arguments with names in place of ports and directories.
fn told_options(command: Option<&Command>, place: &Place) -> String {
    let words =
        command.into_iter().flat_map(Command::get_args).map(|word| word.to_string_lossy().into_owned());
    let mut text = words.collect::<Vec<_>>().join(" ");
    text = text.replace(&*place.directory.to_string_lossy(), "DIRECTORY");
    let secured = place.tls.as_ref().map(|secured| secured.port);
    for port in place.further_ports.into_iter().chain([place.port]).chain(secured) {
        text = text.replace(&port.to_string(), "PORT");
    }
    text
}

fn end_of(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TOLD)..].iter().map(|line| format!("\n  {line}")).collect()
}

/// Ports on loopback that nobody has now. Who comes first has them in the end.
fn free_ports() -> io::Result<[u16; 4]> {
    let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let held = [listen()?, listen()?, listen()?, listen()?];
    let port = |listener: &TcpListener| listener.local_addr().map(|address| address.port());
    Ok([port(&held[0])?, port(&held[1])?, port(&held[2])?, port(&held[3])?])
}

/// A process that ends when this is dropped, in order if it can.
#[derive(Debug)]
struct Process {
    child: Child,
}

impl Process {
    fn start(mut command: Command, log: &Path) -> io::Result<Process> {
        let output = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        // Of its own, so that an interrupt on the terminal ends it in order with this program and not before.
        command.process_group(0);
        let parent = std::process::id();
        // SAFETY: between fork and exec only calls that are safe in a signal handler, without memory.
        unsafe {
            command.pre_exec(move || {
                // If this program dies, nobody else would stop the broker.
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) != 0 {
                    return Err(io::Error::last_os_error());
                }
                // It may have died before.
                if libc::getppid() as u32 != parent {
                    return Err(io::Error::from_raw_os_error(libc::ESRCH));
                }
                Ok(())
            });
        }
        Ok(Process { child: command.spawn()? })
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended().is_some() {
            return;
        }
        // SAFETY: takes plain numbers; the process is this one's child and not yet waited for.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
        let asked = Instant::now();
        while self.ended().is_none() {
            if asked.elapsed() > STOP {
                eprintln!("fulmar bench: process {} does not stop, and is killed", self.child.id());
                drop(self.child.kill());
                drop(self.child.wait());
                return;
            }
            std::thread::sleep(STEP);
        }
    }
}
