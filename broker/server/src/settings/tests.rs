use super::*;

fn load(args: &[&str], environment: &[(&str, &str)]) -> Result<Loaded, SettingsError> {
    let matches = with_options(Command::new("fulmar")).get_matches_from([&["fulmar"], args].concat());
    let environment: BTreeMap<String, String> =
        environment.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    Loaded::new(&matches, |name| environment.get(name).cloned())
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn defaults_are_those_of_the_table() {
    let settings = Loaded::default().settings;
    assert_eq!(settings.addresses(), ["127.0.0.1:5672", "[::1]:5672"].map(|addr| addr.parse().unwrap()));
    assert_eq!(settings.io, IoChoice::Auto);
    assert_eq!(settings.idle, IdleStrategy::Adaptive);
    assert_eq!(settings.frame_max_bytes, 131_072);
    assert_eq!(settings.memory_limit_bytes, 1 << 30);
    assert_eq!(settings.handshake_timeout_ms, 10_000);
    assert_eq!(settings.log_level, Some(log::LevelFilter::Info));
    assert!(!settings.anonymous);
}

#[test]
fn command_line_before_environment_before_file_before_default() {
    let config = file("heartbeat=1\nshards = 1\n# a comment\n\nframe-max=8K # 8192\n");
    let path = config.path().to_str().unwrap();
    let args = ["--config", path, "--heartbeat", "3"];
    let loaded = load(&args, &[("FULMAR_HEARTBEAT", "2"), ("FULMAR_SHARDS", "2")]).unwrap();
    assert_eq!(loaded.settings.heartbeat_s, 3);
    assert_eq!(loaded.settings.shards, 2);
    assert_eq!(loaded.settings.frame_max_bytes, 8192);
    let shown = loaded.to_string();
    let line = |name: &str| shown.lines().find(|line| line.starts_with(name)).unwrap().to_string();
    assert!(line("heartbeat=3").ends_with("# command line"));
    assert!(line("shards=2").ends_with("# $FULMAR_SHARDS"));
    assert!(line("frame-max=8K").ends_with(&format!("# {path}:5")));
    assert!(line("io=auto").ends_with("# default"));
}

#[test]
fn what_show_config_prints_can_be_a_file() {
    let first = load(&["--listen", "127.0.0.1:1,[::1]:2", "--vhost", "a", "--vhost", "b"], &[]).unwrap();
    let config = file(&first.to_string());
    let second = load(&["--config", config.path().to_str().unwrap()], &[]).unwrap();
    assert_eq!(first.settings, second.settings);
    assert_eq!(second.settings.vhosts, ["a", "b"]);
    assert_eq!(second.settings.listen.len(), 2);
}

#[test]
fn the_file_may_be_named_by_the_environment() {
    let config = file("heartbeat=7\n");
    let loaded = load(&[], &[("FULMAR_CONFIG", config.path().to_str().unwrap())]).unwrap();
    assert_eq!(loaded.settings.heartbeat_s, 7);
}

#[test]
fn errors_name_option_file_and_line() {
    let error = |text: &str| {
        let config = file(text);
        let path = config.path().to_str().unwrap().to_string();
        let error = load(&["--config", &path], &[]).unwrap_err().to_string();
        error.replace(&path, "FILE")
    };
    assert_eq!(
        error("io=auto\nhartbeat=1\n"),
        "FILE:2: unknown option 'hartbeat'; `fulmar serve --help` lists them"
    );
    assert_eq!(error("\nheartbeat\n"), "FILE:2: expected name=value");
    assert_eq!(error("io=fast\n"), "FILE:1: bad value 'fast' for io: `fast` is none of auto, uring, epoll");
    assert!(error("frame-max=1\n").contains("frame-max: not within 4096 to"));
    let from_environment = load(&[], &[("FULMAR_SHARDS", "many")]).unwrap_err().to_string();
    assert!(
        from_environment.starts_with("$FULMAR_SHARDS: bad value 'many' for shards"),
        "{from_environment}"
    );
    let from_command_line = load(&["--shards", "1000"], &[]).unwrap_err().to_string();
    assert!(from_command_line.starts_with("command line: bad value '1000' for shards"));
    assert!(matches!(load(&["--config", "/nowhere/at/all"], &[]), Err(SettingsError::Unreadable(..))));
}

#[test]
fn switches_may_be_bare_or_have_a_value() {
    assert!(load(&["--anonymous"], &[]).unwrap().settings.anonymous);
    assert!(!load(&["--anonymous=false"], &[("FULMAR_ANONYMOUS", "true")]).unwrap().settings.anonymous);
}

#[test]
fn a_port_replaces_those_of_all_addresses() {
    let settings = load(&["--listen", "127.0.0.1,[::1]:1", "--port", "7"], &[]).unwrap().settings;
    assert_eq!(settings.addresses(), ["127.0.0.1:7".parse().unwrap(), "[::1]:7".parse().unwrap()]);
    for text in ["::1", "[::1]", "[::1]:5672"] {
        let settings = load(&["--listen", text], &[]).unwrap().settings;
        assert_eq!(settings.addresses(), ["[::1]:5672".parse().unwrap()]);
    }
    assert!(load(&["--listen", "127.0.0.1:99999"], &[]).is_err());
}

#[test]
fn sizes_and_times_have_units() {
    let loaded = load(&["--memory-limit", "2GiB", "--stop-timeout", "0.5"], &[]).unwrap();
    assert_eq!(loaded.settings.memory_limit_bytes, 2 << 30);
    assert_eq!(loaded.settings.stop_timeout_ms, 500);
    assert!(load(&["--memory-limit", "2T"], &[]).is_err());
    assert!(load(&["--stop-timeout", "-1"], &[]).is_err());
}

#[test]
fn messages_are_kept_in_the_data_directory_unless_told_otherwise() {
    let load = |args: &[&str]| load(args, &[]).unwrap().settings;
    assert_eq!(load(&[]).data_path(), Some(fulmar_policy::default_state_dir()));
    assert_eq!(load(&["--data-dir", "/d"]).data_path(), Some("/d".into()));
    let in_memory = load(&["--data-dir", "/d", "--no-data-dir"]);
    assert_eq!((in_memory.data_path(), in_memory.users_path()), (None, "/d/users".into()));
    assert_eq!(Settings::in_process().data_path(), None);
}

#[test]
fn durability_is_flush_unless_somebody_says_os() {
    assert_eq!(load(&[], &[]).unwrap().settings.durability, Durability::Flush);
    let os = load(&[], &[("FULMAR_DURABILITY", "os")]).unwrap();
    assert_eq!(os.settings.durability, Durability::Os);
    assert!(os.to_string().contains("durability=os "));
    let error = load(&["--durability", "none"], &[]).unwrap_err().to_string();
    assert_eq!(error, "command line: bad value 'none' for durability: 'none' is neither flush nor os");
}

#[test]
fn names_are_unique_and_every_option_has_help() {
    let specs: Vec<_> = specs().collect();
    let names: Vec<_> =
        specs.iter().flat_map(|spec| [spec.name, spec.alias]).filter(|n| !n.is_empty()).collect();
    for (i, name) in names.iter().enumerate() {
        assert!(!names[..i].contains(name), "{name}");
    }
    assert!(specs.iter().all(|spec| !spec.help.is_empty()));
}

#[test]
fn an_option_can_be_given_by_its_other_name() {
    let port = |args: &[&str]| load(args, &[]).unwrap().settings.tls_port;
    assert_eq!((port(&[]), port(&["--tls-port", "1"]), port(&["--ssl-port", "2"])), (5671, 1, 2));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "ssl-port=7\n").unwrap();
    assert_eq!(port(&["--config", file.path().to_str().unwrap()]), 7);
}

#[test]
fn tls_is_spoken_where_there_is_a_certificate() {
    let addresses = |args: &[&str]| {
        let settings = load(args, &[]).unwrap().settings;
        settings.tls_addresses().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(addresses(&["--tls-port", "1"]), [""; 0]);
    assert_eq!(addresses(&["--tls-cert", "c"]), ["127.0.0.1:5671", "[::1]:5671"]);
    assert_eq!(addresses(&["--tls-cert", "c", "--listen", "127.0.0.1:5671"]), [""; 0]);
}

#[test]
fn no_known_host_is_told_unless_one_is_named() {
    assert!(Settings::in_process().known_hosts_url.is_empty());
}

#[test]
fn rdma_is_tried_where_it_can_be_or_was_asked_for() {
    let listening = |addresses: &[&str], rdma_port| {
        let listen = addresses.iter().map(|addr| addr.parse().unwrap()).collect();
        Settings { listen, rdma_port, ..Settings::in_process() }.rdma_addresses()
    };
    let both = ["127.0.0.1:5672", "10.8.0.1:5673"];
    let addr = |text: &str| -> SocketAddr { text.parse().unwrap() };
    assert_eq!(listening(&both, None), [addr("10.8.0.1:5673")]);
    assert_eq!(listening(&both, Some(7)), [addr("127.0.0.1:7"), addr("10.8.0.1:7")]);
    assert!(listening(&both, Some(0)).is_empty());
}
