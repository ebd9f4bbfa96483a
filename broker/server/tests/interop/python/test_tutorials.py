"""The six tutorials and publisher confirms, each as programs that a new user would write and start by hand."""

import re


def test_hello(tutorial):
    receiver = tutorial("receive.py")
    receiver.expect("waiting")
    tutorial("send.py").expect("sent 'Hello World!'")
    receiver.expect("received 'Hello World!'")


def test_hello_sent_before_anyone_receives(tutorial):
    assert tutorial("send.py").finish() == 0
    tutorial("receive.py").expect("received 'Hello World!'")


def test_work_queue_shares_tasks_among_workers(tutorial):
    workers = [tutorial("worker.py"), tutorial("worker.py")]
    for worker in workers:
        worker.expect("waiting")
    for n in range(6):
        tutorial("new_task.py", f"task {n} ...").expect("queued")
    taken = []
    for n in range(3):
        for worker in workers:
            taken.append(worker.expect(r"working on 'task (\d)").group(1))
            worker.expect("done")
    assert sorted(taken) == list("012345")


def test_work_queue_gives_the_task_of_a_dead_worker_to_another(tutorial):
    dying = tutorial("worker.py", "--never")
    dying.expect("waiting")
    tutorial("new_task.py", "precious.").expect("queued")
    dying.expect("working on 'precious.', redelivered False")
    heir = tutorial("worker.py")
    heir.expect("waiting")
    dying.stop(9)
    heir.expect("working on 'precious.', redelivered True")
    heir.expect("done")


def test_publish_subscribe(tutorial):
    listeners = [tutorial("receive_logs.py"), tutorial("receive_logs.py")]
    names = {listener.expect(r"waiting on (amq\.gen-\S+)").group(1) for listener in listeners}
    assert len(names) == 2
    tutorial("emit_log.py", "info: hello").expect("sent")
    for listener in listeners:
        listener.expect("received 'info: hello'")


def test_routing(tutorial):
    everything = tutorial("receive_logs_direct.py", "info", "warning", "error")
    errors = tutorial("receive_logs_direct.py", "error")
    for listener in (everything, errors):
        listener.expect("waiting")
    for severity in ("info", "error"):
        assert tutorial("emit_log_direct.py", severity, "run,", "run").finish() == 0
    everything.expect("received info: 'run, run'")
    everything.expect("received error: 'run, run'")
    errors.expect("received error: 'run, run'")
    assert not [line for line in errors.lines if "info" in line]


def test_topics(tutorial):
    patterns = {"all": ["#"], "kern": ["kern.*"], "critical": ["*.critical"], "both": ["kern.*", "*.critical"]}
    listeners = {name: tutorial("receive_logs_topic.py", *pattern) for name, pattern in patterns.items()}
    for listener in listeners.values():
        listener.expect("waiting")
    keys = ["kern.critical", "kern.info", "cron.critical", "cron.info.late", "last.critical", "kern.last"]
    for key in keys:
        assert tutorial("emit_log_topic.py", key, "x").finish() == 0
    listeners["all"].expect("received kern.last")
    received = {
        name: [re.search(r"received (\S+):", line).group(1) for line in listener.lines if "received" in line]
        for name, listener in listeners.items()
    }
    for name in ("kern", "both"):
        while "kern.last" not in received[name]:
            received[name].append(listeners[name].expect(r"received (kern.last):").group(1))
    assert received["all"] == keys
    assert [key for key in keys if key.startswith("kern")] == list(dict.fromkeys(received["kern"]))


def test_rpc(tutorial):
    server = tutorial("rpc_server.py")
    server.expect("waiting")
    client = tutorial("rpc_client.py", "0", "1", "10", "30")
    for n, answer in ((0, 0), (1, 1), (10, 55), (30, 832040)):
        client.expect(rf"fibonacci\({n}\) = {answer}$")
    assert client.finish() == 0


def test_publisher_confirms(tutorial):
    publisher = tutorial("publisher_confirms.py")
    publisher.expect("one by one: 500 confirmed")
    publisher.expect("unroutable noticed")
    publisher.expect("pipelined: 500 confirmed")
    assert publisher.finish() == 0
