use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use fulmar_amqp_0_9_1::codec::{Method, TableRef};

use super::*;

fn shell(script: String) -> Command {
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(script);
    command
}

fn no_broker(_: &Place) -> Vec<Command> {
    vec![shell("echo one; echo no such luck >&2; exit 7".into())]
}

static NEVER: Recipe = Recipe {
    name: "never",
    programs: &["/bin/sh"],
    install: "",
    protocol: Protocol::Amqp091,
    tls: false,
    start: Start::Commands(no_broker),
};

#[test]
fn a_broker_that_ends_is_told_with_its_last_words() {
    let error = Running::start(&NEVER).unwrap_err().to_string();
    assert!(error.contains("never ended at once") && error.contains("\n  no such luck"), "{error}");
    assert!(error.contains('7'), "{error}");
}

#[test]
fn what_is_not_installed_says_how_to_get_it() {
    static MISSING: Recipe = Recipe {
        name: "missing",
        programs: &["/nowhere/missing", "fulmar-has-no-such-program"],
        install: "build it",
        protocol: Protocol::Amqp091,
        tls: false,
        start: Start::Commands(no_broker),
    };
    assert_eq!(Running::start(&MISSING).unwrap_err().to_string(), "missing is not installed: build it");
}

#[test]
fn what_has_no_driver_says_so() {
    let error = Running::start(find("nats").unwrap()).unwrap_err().to_string();
    assert_eq!(error, "nats speaks NATS, for which this program has no driver yet");
}

#[test]
fn every_recipe_has_a_name_of_its_own_and_keeps_to_loopback_and_its_directory() {
    let directory = tempfile::tempdir().unwrap();
    for recipe in RECIPES {
        assert_eq!(RECIPES.iter().filter(|other| other.name == recipe.name).count(), 1);
        assert!(!recipe.install.is_empty() && !recipe.programs.is_empty());
        let Start::Commands(commands) = recipe.start else { continue };
        let place = Place {
            program: "/bin/true".into(),
            directory: directory.path().into(),
            port: 40_001,
            further_ports: [40_002, 40_003],
            tls: recipe.tls.then(|| Secured {
                port: 40_004,
                certificate: directory.path().join("certificate.pem"),
                key: directory.path().join("key.pem"),
            }),
        };
        let commands = commands(&place);
        let files = std::fs::read_dir(directory.path()).unwrap().flatten();
        let written = files.map(|file| std::fs::read_to_string(file.path()).unwrap_or_default());
        let all = format!("{commands:?}{}", written.collect::<String>());
        assert!(all.contains("127.0.0.1") && all.contains("40001"), "{all}");
        assert!(all.contains(&*directory.path().to_string_lossy()), "{all}");
        assert!(!all.contains("5672"), "{all}");
        assert_eq!(all.contains("40004"), recipe.tls, "{all}");
        for file in std::fs::read_dir(directory.path()).unwrap().flatten() {
            std::fs::remove_file(file.path()).unwrap();
        }
    }
}

/// Stands in for a broker: this program again, which runs [`greets_where_told`] alone.
fn greeter(place: &Place) -> Vec<Command> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "recipe::tests::greets_where_told"]);
    command.env(GREET_AT, place.port.to_string()).env(GREET_FROM, &place.directory);
    command.arg("--skip").arg(place.port.to_string()).arg("--skip").arg(&place.directory);
    vec![shell("exec sleep 1000".into()), command]
}

const GREET_AT: &str = "FULMAR_TEST_GREET_AT";
const GREET_FROM: &str = "FULMAR_TEST_GREET_FROM";

/// No test, but the other side of one.
#[test]
fn greets_where_told() {
    let (Ok(port), Ok(directory)) = (std::env::var(GREET_AT), std::env::var(GREET_FROM)) else { return };
    std::fs::write(Path::new(&directory).join("pid"), std::process::id().to_string()).unwrap();
    let mut properties = Vec::new();
    for (name, value) in [("product", "Greeter"), ("version", "1.2")] {
        properties.push(name.len() as u8);
        properties.extend_from_slice(name.as_bytes());
        properties.push(b'S');
        properties.extend_from_slice(&(value.len() as u32).to_be_bytes());
        properties.extend_from_slice(value.as_bytes());
    }
    let start = Method::ConnectionStart {
        version_major: 0,
        version_minor: 9,
        server_properties: TableRef::new(&properties),
        mechanisms: b"PLAIN",
        locales: b"en_US",
    };
    let mut frame = Vec::new();
    start.encode(0, &mut frame);
    let listener = TcpListener::bind(("127.0.0.1", port.parse().unwrap())).unwrap();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(60) {
        let (mut client, _) = listener.accept().unwrap();
        // Closing with something unread would take back what was sent.
        if client.read_exact(&mut [0; 8]).is_ok() {
            drop(client.write_all(&frame));
        }
    }
}

static GREETER: Recipe = Recipe {
    name: "greeter",
    programs: &["/bin/sh"],
    install: "",
    protocol: Protocol::Amqp091,
    tls: false,
    start: Start::Commands(greeter),
};

#[test]
fn a_broker_is_ready_when_it_greets_and_gone_when_dropped() {
    let running = Running::start(&GREETER).unwrap();
    let directory = running.directory().to_path_buf();
    assert_eq!(running.greeting.product.as_deref(), Some("Greeter"));
    assert_eq!(running.greeting.version.as_deref(), Some("1.2"));
    let pids = running.pids();
    assert_eq!(std::fs::read_to_string(directory.join("pid")).unwrap(), running.pid().to_string());
    assert!(running.options.ends_with("--skip PORT --skip DIRECTORY"), "{}", running.options);
    drop(running);
    assert_eq!(pids.len(), 2);
    for pid in pids {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{pid} still runs");
    }
    assert!(!directory.exists());
}

#[test]
fn what_is_no_broker_is_no_greeting() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answers = std::thread::spawn(move || {
        for answer in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b""] {
            listener.accept().unwrap().0.write_all(answer).unwrap();
        }
    });
    assert!(greeting(Protocol::Amqp091, address, Duration::from_secs(10)).is_err());
    assert!(greeting(Protocol::Amqp091, address, Duration::from_secs(10)).is_err());
    answers.join().unwrap();
    let began = Instant::now();
    assert!(
        greeting(Protocol::Amqp091, address, Duration::from_secs(10)).is_err(),
        "nobody listens any more"
    );
    assert!(began.elapsed() < Duration::from_secs(10));
}
