//! `fulmar serve`.

use std::process::ExitCode;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use clap::ArgMatches;
use log::LevelFilter;

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
        print!("{loaded}");
        return ExitCode::SUCCESS;
    }
    let settings = loaded.settings;
    logging::start(settings.log_level.unwrap_or(LevelFilter::Info));
    check_open_files(&settings);
    // Before any thread is started, so that all of them inherit it.
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
    if settings.print_port {
        println!("{}", running.addr().port());
    }
    println!("fulmar is ready on {} (AMQP 0-9-1)", addresses.join(", "));
}

fn wait_and_stop(running: Running, signals: &Receiver<&'static str>, within: Duration) -> ExitCode {
    loop {
        if let Ok(signal) = signals.try_recv() {
            log::info!("{signal}: stopping, within {} s; once more: at once", within.as_secs_f64());
            break;
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

/// Takes SIGTERM and SIGINT from here on: the first is handed out, the second ends the process at once.
fn catch_signals() -> Receiver<&'static str> {
    // SAFETY: an all-zero sigset_t is valid; sigemptyset makes it the empty set.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is valid for reads and writes; the signals exist; blocking them has no other effect.
    unsafe {
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGTERM);
        libc::sigaddset(&mut set, libc::SIGINT);
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
    }
    let (tell, signals) = channel();
    let wait = move || {
        let mut again = false;
        loop {
            let mut signal = 0;
            // SAFETY: `set` is initialised and `signal` is valid for writes.
            if unsafe { libc::sigwait(&set, &mut signal) } != 0 {
                return;
            }
            if again {
                std::process::exit(128 + signal);
            }
            again = true;
            let _ = tell.send(if signal == libc::SIGTERM { "SIGTERM" } else { "SIGINT" });
        }
    };
    if let Err(error) = std::thread::Builder::new().name("fulmar-signals".to_string()).spawn(wait) {
        log::warn!("signals will not stop this process: {error}");
    }
    signals
}

fn check_open_files(settings: &Settings) {
    match affinity::raise_open_files() {
        Ok(limit) => {
            let connections = limit.saturating_sub(OWN_FILES);
            if connections < u64::from(settings.max_connections) {
                log::warn!(
                    "the limit of open files, {limit}, allows {connections} connections rather than {} \
                     (--max-connections); ulimit -n raises it",
                    settings.max_connections
                );
            }
        }
        Err(error) => log::warn!("the limit of open files cannot be raised: {error}"),
    }
}
