"""Many machines: `limaquota metrics`, node_exporter's textfile collector, Prometheus with the rules and the alerts that
ship, and every query of the dashboard. The services run on free ports with directories of the test's own."""
import contextlib
import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse
import urllib.request

from harness import DEADLINE, HELPERS, MIB, Skip, expect, wait_for

MONITORING = os.path.join(HELPERS, "monitoring")
SAMPLE = re.compile(r'limaquota_[a-z_]+\{home="((?:[^"\\]|\\.)*)"(?:,[a-z]+="(?:[^"\\]|\\.)*")*\} (?:[0-9.e+-]+|\+Inf)')


def need(*programs):
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        raise Skip(f"not installed: {', '.join(missing)}")


def get(url):
    """What the service answers; no proxy stands between two programs of this machine."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=20) as answer:
        return answer.read().decode()


def answers(url):
    try:
        get(url)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def kept_port():
    """A free port that stays so for who listens at it: it is bound, so nobody else is given it, and not listened at."""
    with socket.socket() as keeper:
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeper.bind(("127.0.0.1", 0))
        yield keeper.getsockname()[1]


@contextlib.contextmanager
def service(directory, ready, *words):
    """A program that serves at --web.listen-address: yields its address; ended by its own id."""
    with kept_port() as port:
        yield from served(directory, ready, f"127.0.0.1:{port}", *words)


def served(directory, ready, address, *words):
    with open(os.path.join(directory, words[0] + ".log"), "w+", encoding="utf-8") as log:
        with subprocess.Popen([*words, f"--web.listen-address={address}"], stdout=log, stderr=log) as process:
            try:
                wait_for(lambda: answers(f"http://{address}{ready}") or process.poll() is not None,
                         f"{words[0]} answers")
                log.seek(0)
                expect(process.poll() is None, f"{words[0]} ended at once: {log.read()}")
                yield address
            finally:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()


def node_exporter(directory):
    return service(directory, "/metrics", "prometheus-node-exporter", "--collector.disable-defaults",
                   "--collector.textfile", f"--collector.textfile.directory={directory}")


def prometheus(directory, exporters):
    """Scrapes the exporters (name of the host: address) each second, with the rules that ship."""
    rules = [os.path.join(MONITORING, name) for name in ("rules.yml", "alerts.yml")]
    targets = [{"targets": [address], "labels": {"instance": name}} for name, address in exporters.items()]
    config = os.path.join(directory, "prometheus.yml")
    with open(config, "w", encoding="utf-8") as file:  # JSON is YAML
        json.dump({"global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "rule_files": rules,
                   "scrape_configs": [{"job_name": "node", "static_configs": targets}]}, file)
    return service(directory, "/-/ready", "prometheus", f"--config.file={config}",
                   f"--storage.tsdb.path={os.path.join(directory, 'data')}")


def api(address, path, **parameters):
    reply = json.loads(get(f"http://{address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"))
    expect(reply["status"] == "success", f"{path} {parameters}: {reply}")
    return reply["data"]


def ask(address, query):
    """The samples of a query: [(labels, value)]."""
    return [(sample["metric"], float(sample["value"][1])) for sample in api(address, "query", query=query)["result"]]


def by_instance(address, query):
    return {labels["instance"]: value for labels, value in ask(address, query)}


def dashboard():
    with open(os.path.join(MONITORING, "dashboard.json"), encoding="utf-8") as file:
        return json.load(file)


def fill_in(query):
    """As Grafana does where "All" is chosen, with samples each second."""
    for name, value in (("$__rate_interval", "10s"), ("$instance", ".*"), ("$home", ".*")):
        query = query.replace(name, value)
    expect("$" not in query, f"a variable that nobody fills in: {query}")
    return query


def dashboard_queries(board):
    """Every PromQL query of the dashboard."""
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    queries += [annotation["expr"] for annotation in board["annotations"]["list"]]
    return [fill_in(query) for query in queries]


def label_queries(board):
    """(series, label) of every label_values() that fills a variable of the dashboard."""
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            match = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
            expect(match, f"variable {variable['name']}: {variable['query']}")
            yield fill_in(match[1]), match[2]


def make_disk(home, vm, mib):
    """Before the mount: a VM with a sparse raw disk."""
    os.makedirs(os.path.join(home.source, vm))
    with open(os.path.join(home.source, vm, "disk"), "xb") as file:
        file.truncate(mib * MIB)


def write_disk(home, vm, mib):
    """Writes so many MiB into the VM's disk; False where a write was refused."""
    with open(os.path.join(home.mountpoint, vm, "disk"), "r+b", buffering=0) as disk:
        left = mib * MIB
        while left > 0:
            try:
                left -= disk.write(b"x" * min(left, MIB))
            except OSError as error:
                expect(error.errno == errno.ENOSPC, f"refused with {error}")
                return False
    return True


def collect(home, file, status=0):
    return home.run("metrics", "--home", home.mountpoint, "--output", file, status=status)


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def is_down(file, home):
    return f'limaquota_up{{home="{os.path.realpath(home.mountpoint)}"}} 0\n' in read(file)


def test_rules_and_alerts_say_what_their_tests_say(new_home):
    del new_home
    need("promtool")
    for words in (["check", "rules", "rules.yml", "alerts.yml"], ["test", "rules", "rules_test.yml"]):
        result = subprocess.run(["promtool", *words], cwd=MONITORING, capture_output=True, text=True, check=False)
        expect(result.returncode == 0, f"promtool {' '.join(words)}: {result.stdout}{result.stderr}")


def test_metrics_are_clean_and_name_the_home_on_every_series(new_home):
    need("promtool")
    home = new_home()
    make_disk(home, 'a "b"', 8)
    home.mount()
    text = home.run("metrics", "--home", home.mountpoint)
    result = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    expect(result.returncode == 0 and not result.stdout + result.stderr, f"promtool: {result.stdout}{result.stderr}")
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    for line in samples:
        match = SAMPLE.fullmatch(line)
        expect(match and match[1] == os.path.realpath(home.mountpoint), f"no sample of this home: {line}")
    names = {line.split("{")[0] for line in samples}
    announced = set(re.findall(r"^# TYPE (\w+)", text, re.M))
    expect(names == announced, f"announced, without a sample: {announced - names}; not announced: {names - announced}")
    home.close()


def test_output_is_replaced_in_one_step(new_home):
    home = new_home()
    make_disk(home, "vm", 8)
    home.mount()
    directory = tempfile.mkdtemp(dir=home.directory)
    file = os.path.join(directory, "limaquota.prom")
    old_umask = os.umask(0o077)
    try:
        collect(home, file)
    finally:
        os.umask(old_umask)
    expect(os.stat(file).st_mode & 0o7777 == 0o644, "the collector is another user: it must be able to read the file")
    lines = len(read(file).splitlines())
    torn, seen, done = [], [0], threading.Event()

    def watch():
        while not done.is_set():
            text = read(file)
            seen[0] += 1
            if len(text.splitlines()) != lines or not text.endswith("\n"):
                torn.append(text)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        for _ in range(40):
            collect(home, file)
    finally:
        done.set()
        thread.join()
    expect(seen[0] > 40, f"only {seen[0]} readings: they prove nothing")
    expect(not torn, f"a reader saw a file that is not whole: {torn[:1]}")
    expect(os.listdir(directory) == ["limaquota.prom"], f"left behind: {os.listdir(directory)}")
    said = collect(home, os.path.join(directory, "no", "such.prom"), status=1)
    expect("such.prom" in said and len(said.splitlines()) == 1, f"not one line that names the file: {said}")
    said = collect(home, directory, status=1)  # not a file: the new one cannot take its name
    left = [name for name in os.listdir(home.directory) if name.startswith(os.path.basename(directory) + ".")]
    expect(not left, f"left behind: {left}")
    home.close()


def test_a_mount_that_does_not_answer_is_down(new_home):
    home = new_home()
    with open(home.limaquota, "rb") as file:
        if b"__asan_init" in file.read():
            raise Skip("under the address sanitizer a process does not leave while a thread of it waits in the kernel")
    make_disk(home, "vm", 8)
    file = os.path.join(home.directory, "limaquota.prom")
    said = collect(home, file, status=1)
    expect(is_down(file, home) and "not mounted" in said, f"not mounted: {said}{read(file)}")
    home.run("metrics", "--home", home.mountpoint + "/gone/", "--output", file, status=1)
    expect('/gone"}' in read(file), f"a slash at the end of what is not there: {read(file)}")
    os.unlink(file)
    link = os.path.join(home.directory, "link")
    os.symlink(home.mountpoint, link)
    home.run("metrics", "--home", link, "--output", file, status=1)
    expect(is_down(file, home), f"by a symlink the home has another name: {read(file)}")
    said = home.run("metrics", "--home", home.mountpoint, status=1)
    expect("limaquota_" not in said, f"figures of a home that is not mounted: {said}")
    home.mount()
    collect(home, file)
    expect(not is_down(file, home) and "limaquota_used_bytes" in read(file), "mounted, and yet down")
    home.signal_worker(signal.SIGSTOP)
    try:
        said = home.run("metrics", "--home", home.mountpoint, "--output", file, status=1)  # while the daemon hangs
    finally:
        home.signal_worker(signal.SIGCONT)
    expect(is_down(file, home) and "does not answer" in said, f"the daemon hangs: {said}{read(file)}")
    collect(home, file)
    expect(not is_down(file, home), "the daemon answers again, and yet is down")
    home.signal_daemon(signal.SIGKILL)
    wait_for(lambda: not os.path.exists(os.path.join(home.mountpoint, ".usage")), "the daemon is gone")
    said = collect(home, file, status=1)
    expect(is_down(file, home) and "gone" in said, f"the daemon died: {said}{read(file)}")
    home.abandon()


def test_two_homes_of_one_host_stay_apart(new_home):
    need("prometheus-node-exporter")
    first, second = new_home(), new_home()
    make_disk(first, "vm", 8)
    first.mount()
    directory = tempfile.mkdtemp(dir=first.directory)
    collect(first, os.path.join(directory, "limaquota-ann.prom"))
    collect(second, os.path.join(directory, "limaquota-bob.prom"), status=1)
    with node_exporter(directory) as address:
        text = get(f"http://{address}/metrics")
    expect("node_textfile_scrape_error 0" in text, "node_exporter refuses the files")
    for home, up in ((first, 1), (second, 0)):
        line = f'limaquota_up{{home="{os.path.realpath(home.mountpoint)}"}} {up}'
        expect(line in text.splitlines(), f"missing: {line}")
    first.close()


def check_what_prometheus_knows(address, homes):
    """The figures arrive unchanged; the rules are healthy; what they say of the full VM holds."""
    # A scrape and an evaluation may be a second late each.
    wait_for(lambda: by_instance(address, 'limaquota_used_bytes{vm="vm"}') ==
             {name: home.account("vm")["used"] for name, home in homes.items()}, "used is the same in Prometheus")
    wait_for(lambda: by_instance(address, "home:limaquota_full:count") == {"busy": 1, "calm": 0},
             "busy's VM is full")
    wait_for(lambda: set(by_instance(address, 'ALERTS{alertname="LimaquotaVmFull"}')) == {"busy"}, "it is alerted")
    for name, home in homes.items():
        labels = next(labels for labels, _ in ask(address, "limaquota_up") if labels["instance"] == name)
        expect(labels["home"] == os.path.realpath(home.mountpoint), f"{name}: home is {labels}")
    rules = [rule for group in api(address, "rules")["groups"] for rule in group["rules"]]
    sick = [rule for rule in rules if rule["health"] != "ok"]
    expect(rules and not sick, f"rules that fail: {sick}")
    # "or vector(0)" and alerts that are silent would hide a name that nobody writes.
    queries = " ".join(dashboard_queries(dashboard()) + [rule["query"] for rule in rules])
    unknown = set(re.findall(r"(?:home:)?limaquota_[\w:]+", queries)) - set(api(address, "label/__name__/values"))
    expect(not unknown, f"no series of this name: {unknown}")
    matched = ask(address, 'node_textfile_mtime_seconds{file=~".*limaquota.*"}')
    expect(len(matched) == 2, f"the files whose age LimaquotaMetricsStale looks at: {matched}")


def check_dashboard(address, homes, collect_all):
    """Every query of the dashboard has an answer, of both hosts where it is one of hosts."""
    board = dashboard()
    queries = dashboard_queries(board)
    expect(len(queries) > 20, f"only {len(queries)} queries: is this the dashboard?")

    def unanswered():
        collect_all()
        time.sleep(0.5)
        missing = []
        for query in queries:
            instances = {labels.get("instance") for labels, _ in ask(address, query)}
            # Sums over the fleet have no instance; alerts are of one.
            if instances != set(homes) and instances != {None} and not (instances and "ALERTS" in query):
                missing.append(f"{query} -> {instances}")
        return missing

    missing = unanswered()
    until = time.monotonic() + DEADLINE
    while missing and time.monotonic() < until:
        missing = unanswered()
    expect(not missing, f"no answer for both hosts: {missing}")
    for series, label in label_queries(board):
        values = api(address, f"label/{label}/values", **{"match[]": series})
        paths = {os.path.realpath(home.mountpoint) for home in homes.values()}
        expect(set(values) == (set(homes) if label == "instance" else paths), f"{label}: {values}")


def test_a_fleet_of_two_hosts_answers_every_query_of_the_dashboard(new_home):
    need("prometheus", "prometheus-node-exporter")
    homes = {"busy": new_home(), "calm": new_home()}
    files = {}

    def collect_all():
        for name, home in homes.items():
            collect(home, files[name])

    with contextlib.ExitStack() as services:
        exporters = {}
        for name, home in homes.items():
            make_disk(home, "vm", 64)
            home.mount()
            home.run("set", "vm", "40MiB", "--home", home.mountpoint)
            directory = tempfile.mkdtemp(dir=home.directory)
            files[name] = os.path.join(directory, "limaquota.prom")
            exporters[name] = services.enter_context(node_exporter(directory))
        collect_all()
        address = services.enter_context(prometheus(tempfile.mkdtemp(dir=homes["busy"].directory), exporters))
        wait_for(lambda: len(ask(address, 'limaquota_refused_writes_total{vm="vm"} == 0')) == 2, "both are scraped")
        expect(write_disk(homes["calm"], "vm", 4), "calm is refused far from its limit")
        expect(not write_disk(homes["busy"], "vm", 64), "busy is not held to its limit")
        check_dashboard(address, homes, collect_all)
        check_what_prometheus_knows(address, homes)

        homes["calm"].close()
        collect(homes["calm"], files["calm"], status=1)
        wait_for(lambda: by_instance(address, "limaquota_up") == {"busy": 1, "calm": 0}, "the unmounted home is down")
        wait_for(lambda: set(by_instance(address, 'ALERTS{alertname="LimaquotaDown"}')) == {"calm"}, "it is alerted")
    homes["busy"].close()
