//! `fulmar serve`.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use clap::ArgMatches;
use log::{Level, LevelFilter};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::broker::{Broker, Running};
use crate::settings::{Loaded, Settings};
use crate::{affinity, logging};

/// Descriptors that are not connections: rings, wakers, listeners, standard streams.
const OWN_FILES: u64 = 64;

/// Runs a broker until a signal stops it.
pub fn run(matches: &ArgMatches) -> ExitCode {
    let loaded = match Loaded::new(matches, |name| std::env::var(name).ok()) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("fulmar: {error}");
            return ExitCode::from(2);
        }
    };
    if matches.get_flag("show-config") {
        say(loaded);
        return ExitCode::SUCCESS;
    }
    logging::start(loaded.settings.log_level.unwrap_or(LevelFilter::Info));
    let settings = within_open_files(&loaded);
    let signals = catch_signals();
    let running = match Broker::start(&settings) {
        Ok(running) => running,
        Err(error) => {
            log::error!("{error}");
            return ExitCode::FAILURE;
        }
    };
    announce(&settings, &running);
    wait_and_stop(running, &signals, Duration::from_millis(settings.stop_timeout_ms))
}

fn announce(settings: &Settings, running: &Running) {
    let addresses: Vec<_> = running.addresses().iter().map(ToString::to_string).collect();
    for addr in &addresses {
        log::info!("listening on {addr}");
    }
    for addr in running.tls_addresses() {
        log::info!("listening on {addr}, TLS alone");
    }
    if settings.print_port {
        say(format_args!("{}\n", running.addr().port()));
    }
    say(format_args!("fulmar is ready on {} (AMQP 0-9-1, AMQP 0-10)\n", addresses.join(", ")));
}

/// Writes to standard output. That nobody reads it is no reason to stop.
fn say(text: impl Display) {
    let _ = write!(io::stdout(), "{text}").and_then(|()| io::stdout().flush());
}

fn wait_and_stop(running: Running, signals: &Receiver<Signal>, within: Duration) -> ExitCode {
    loop {
        match signals.try_recv() {
            Ok(Signal::Stop(name)) => {
                log::info!("{name}: stopping, within {} s; once more: at once", within.as_secs_f64());
                break;
            }
            Ok(Signal::Reload) => reload(&running),
            Err(_) => {}
        }
        if running.wait_failed(Duration::from_millis(50)) {
            log::error!("stopping, since a shard has failed");
            let _ = running.stop(within);
            return ExitCode::FAILURE;
        }
    }
    match running.stop(within) {
        Ok(()) => {
            log::info!("stopped");
            ExitCode::SUCCESS
        }
        Err(error) => {
            log::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Reads again what may change while the broker runs.
fn reload(running: &Running) {
    match running.reload_tls() {
        Ok(true) => log::info!("SIGHUP: certificates, keys and revocation lists were read again"),
        Ok(false) => {}
        Err(error) => log::error!("SIGHUP: TLS: {error}; everything stays as it was"),
    }
    match running.reload_rules() {
        Ok(()) => log::info!("SIGHUP: rules were read again"),
        Err(error) => log::error!("SIGHUP: {error}; the rules stay as they were"),
    }
}

/// What a signal asks for.
enum Signal {
    /// To stop; by this name.
    Stop(&'static str),
    /// To read files again.
    Reload,
}

/// Takes SIGTERM, SIGINT and SIGHUP from here on. Of the first two the first is handed out, the second ends the process at
/// once.
fn catch_signals() -> Receiver<Signal> {
    let (tell, signals) = channel();
    let caught = match Signals::new([SIGTERM, SIGINT, SIGHUP]) {
        Ok(caught) => caught,
        Err(error) => {
            log::warn!("signals are not caught: {error}");
            return signals;
        }
    };
    let wait = move || wait_for_signals(caught, &tell);
    if let Err(error) = std::thread::Builder::new().name("fulmar-signals".to_string()).spawn(wait) {
        log::warn!("signals will not stop this process: {error}");
    }
    signals
}

fn wait_for_signals(mut caught: Signals, tell: &Sender<Signal>) {
    let mut again = false;
    for signal in caught.forever() {
        if signal == SIGHUP {
            let _ = tell.send(Signal::Reload);
            continue;
        }
        if again {
            std::process::exit(128 + signal);
        }
        again = true;
        let _ = tell.send(Signal::Stop(if signal == SIGTERM { "SIGTERM" } else { "SIGINT" }));
    }
}

/// Raises the limit of open files, and takes no more connections than it allows.
fn within_open_files(loaded: &Loaded) -> Settings {
    let mut settings = loaded.settings.clone();
    let limit = match affinity::raise_open_files() {
        Ok(limit) => limit,
        Err(error) => {
            log::warn!("the limit of open files cannot be raised: {error}");
            return settings;
        }
    };
    let allowed = u32::try_from(limit.saturating_sub(OWN_FILES)).unwrap_or(u32::MAX).max(1);
    if allowed < settings.max_connections {
        let level = if loaded.is_given("max-connections") { Level::Warn } else { Level::Info };
        log::log!(
            level,
            "connections: at most {allowed} rather than {}, since this process may open {limit} files; \
             ulimit -n raises that",
            settings.max_connections
        );
        settings.max_connections = allowed;
    }
    settings
}
