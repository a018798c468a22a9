"""Runs a command beside a MongoDB server: tests/mongodb/with_server [OPTIONS] -- COMMAND...

The tests of the MongoDB store need a server that nobody else uses, that can be killed, and
that is gone afterwards. This starts one on a free loopback port with its data in a temporary
folder, waits until it answers, runs COMMAND, ends what it started, and gives COMMAND's status.

Which server: the one that TIDELOG_TEST_MONGODB_URI names, where no option asks for one of
one's own; else `mongod` from the PATH as a replica set; else SecantusDB from .venv.

COMMAND finds in its environment
  TIDELOG_MONGODB_URI       where to connect to; it has a "?", so that "&option=..." may follow.
                            On a server that others use it has a tidelogPrefix; databases that
                            begin with it are dropped in the end.
  TIDELOG_MONGODB_HOST      host:port of the same
  TIDELOG_MONGODB_DIRECT    the server's own URI: past the proxy, where there is one
  TIDELOG_MONGODB_SERVER    mongod, secantus or external
  TIDELOG_MONGODB_CONTROL   a port for tests/mongodb/control: "kill", "start", ...
  TIDELOG_MONGODB_PROXY     the proxy's control port (--proxy)
  TIDELOG_MONGODB_TLS       folder with ca.pem, other-ca.pem, client.pem, ... (--tls and others)
  TIDELOG_MONGODB_PASSWORD  the user's, not percent-encoded (--auth)
"""

import argparse
import base64
import contextlib
import ctypes
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
from pathlib import Path

import pymongo
import pymongo.errors

HERE = Path(__file__).resolve().parent
SECANTUS = HERE.parent.parent / ".venv/bin/secantusd-py"
START = 40  # seconds that a server may take to answer
USER, PASSWORD = "tidelog", "p@ss:w/rd-sesame"
X509_USER = "CN=tidelog,OU=engine,O=Tidelog tests"
MARK = "tidelog-mongodb-"


class Problem(Exception):
    """Said in one line; the command is not run."""


class Skip(Exception):
    """What is needed is not to be had here."""


class Interrupted(Exception):
    """A signal asks to end."""


def die_with_parent():
    """In the child: ends with the process that started it, however that ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def free_port():
    """One that no client gets for its own end: while the server is down such a client could
    connect to itself, and keep the port from the server."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port


# ---- certificates ------------------------------------------------------------------------


def openssl(folder, *arguments):
    done = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        raise Problem(f"openssl {' '.join(arguments)}: {done.stderr.strip()}")


def make_certificates(folder):
    """Two authorities; from the first a server's certificate, an expired one and a client's."""
    folder.mkdir()
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for name in ("ca", "other-ca"):
        openssl(folder, "req", "-x509", *key, "-keyout", name + ".key", "-out", name + ".pem",
                "-subj", f"/CN=Tidelog tests {name}", "-days", "2")  # fmt: skip
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    expired = ["-not_before", "20200101000000Z", "-not_after", "20200102000000Z"]
    for name, subject, dates in (
        ("server", "/O=Tidelog tests/CN=127.0.0.1", ["-days", "2"]),
        ("expired", "/O=Tidelog tests/CN=127.0.0.1", expired),
        ("client", "/O=Tidelog tests/OU=engine/CN=tidelog", ["-days", "2"]),
    ):
        openssl(folder, "req", *key, "-keyout", name + ".key", "-out", name + ".csr", "-subj", subject)
        sign = ["x509", "-req", "-in", name + ".csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-out", name + ".crt", "-extfile", "names"]  # fmt: skip
        try:
            openssl(folder, *sign, *dates)
        except Problem:
            if dates is not expired:
                raise
            openssl(folder, *sign, "-days", "-1")  # before OpenSSL 3.4
        (folder / (name + ".pem")).write_text(
            (folder / (name + ".crt")).read_text() + (folder / (name + ".key")).read_text())


# ---- the server --------------------------------------------------------------------------


class Node:
    """One server process that can be killed and started again on its port and data."""

    def __init__(self, line, log):
        self.line, self.log, self.process = line, log, None

    def start(self):
        if self.running():
            raise Problem("it runs already")
        self.process = subprocess.Popen(self.line, stdin=subprocess.DEVNULL, stdout=self.log,
                                        stderr=self.log, preexec_fn=die_with_parent)  # fmt: skip

    def running(self):
        return self.process is not None and self.process.poll() is None

    def end(self, how):
        if not self.running():
            raise Problem("it does not run")
        self.process.send_signal(how)
        try:
            self.process.wait(START)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def pause(self, how):
        if not self.running():
            raise Problem("it does not run")
        self.process.send_signal(how)


class Server:
    """A server of one's own: one node, or a replica set of mongods."""

    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        self.mongod = shutil.which("mongod")
        self.name = "mongod" if self.mongod else "secantus"
        self.nodes, self.hosts = [], []
        if not self.mongod and not SECANTUS.exists():
            raise Skip("no MongoDB server: neither mongod on the PATH nor SecantusDB in .venv (./dev test)")
        if not self.mongod and options.nodes > 1:
            raise Skip("a replica set of several nodes needs mongod on the PATH")

    def line(self, number, port, auth):
        data = self.folder / f"data{number}"
        data.mkdir(exist_ok=True)
        options, tls = self.options, self.folder / "tls"
        if self.mongod:
            line = [self.mongod, "--bind_ip", options.host, "--port", str(port), "--dbpath", str(data),
                    "--setParameter", "enableTestCommands=1", "--wiredTigerCacheSizeGB", "0.25"]  # fmt: skip
            if not options.standalone:
                line += ["--replSet", "tidelog", "--oplogSize", "64"]
            if options.tls:
                line += ["--tlsMode", "requireTLS", "--tlsCertificateKeyFile", str(tls / "server.pem"),
                         "--tlsCAFile", str(tls / "ca.pem")]  # fmt: skip
                if not options.tls_client:
                    line += ["--tlsAllowConnectionsWithoutCertificates"]
            if auth:
                key = self.folder / "key"
                if not key.exists():
                    key.touch(0o600)
                    key.write_text(base64.b64encode(os.urandom(96)).decode())
                line += ["--auth", "--keyFile", str(key)]
            return line
        line = [str(SECANTUS), "--host", options.host, "--port", str(port), "--storage-path", str(data),
                "--enable-test-commands", "--cache-size", "256M", "--log-level", "WARNING"]  # fmt: skip
        if options.durable:
            line += ["--sync-on-commit"]
        if options.standalone:
            line += ["--standalone"]
        if options.tls:
            line += ["--tls-cert-file", str(tls / "server.pem"), "--tls-key-file", str(tls / "server.key"),
                     "--tls-ca-file", str(tls / "ca.pem")]  # fmt: skip
            if options.tls_client:
                line += ["--tls-require-client-cert"]
        if auth:
            line += ["--auth"]
        return line

    def client(self, user=True, **more):
        """A client for what is to be done around the tests; it trusts whatever certificate there is."""
        if user and self.options.auth:
            more.update(username=USER, password=PASSWORD, authSource="admin")
        if self.options.tls:
            more.update(tls=True, tlsInsecure=True, tlsCertificateKeyFile=str(self.folder / "tls/client.pem"))
        return pymongo.MongoClient(self.hosts[0], directConnection=True, serverSelectionTimeoutMS=START * 1000, **more)

    def launch(self, port, auth):
        """Starts the nodes; a free port may be somebody else's by now, so it may take another try."""
        for _ in range(5):
            ports = [port or free_port() for _ in range(self.options.nodes)]
            self.hosts = [f"{self.options.host}:{port}" for port in ports]
            log = open(self.folder / "log", "ab")  # noqa: SIM115, the children's as well
            self.nodes = [Node(self.line(i, port, auth), log) for i, port in enumerate(ports)]
            for node in self.nodes:
                node.start()
            if all(self.listening(i) for i in range(len(self.nodes))):
                return
            self.end()
        raise Problem("the server does not start: " + self.said(2000))

    def said(self, size):
        """The end of what the nodes have said."""
        return (self.folder / "log").read_text(errors="replace")[-size:]

    def listening(self, number):
        host, port = self.hosts[number].rsplit(":", 1)
        ends = time.monotonic() + START
        while time.monotonic() < ends and self.nodes[number].running():
            with contextlib.suppress(OSError):
                socket.create_connection((host, int(port)), 1).close()
                return True
            time.sleep(0.01)
        return False

    def start(self):
        self.launch(self.options.port, auth=bool(self.mongod and self.options.auth))
        if self.mongod and not self.options.standalone:
            with self.client(user=False) as client:
                config = {"_id": "tidelog", "members": [{"_id": i, "host": host} for i, host in enumerate(self.hosts)]}
                if len(self.hosts) > 1:  # a failover takes seconds then, not a quarter of a minute
                    config["settings"] = {"electionTimeoutMillis": 2000, "heartbeatIntervalMillis": 500}
                client.admin.command("replSetInitiate", config)
            self.wait_for_primary()
        if self.options.auth:
            with self.client(user=False) as client:
                client.admin.command("createUser", USER, pwd=PASSWORD, roles=["root"], mechanisms=["SCRAM-SHA-256"])
            if not self.mongod:  # which takes no users once it asks for them
                self.nodes[0].end(signal.SIGTERM)
                port = int(self.hosts[0].rsplit(":", 1)[1])
                self.launch(port, auth=True)
        with self.client() as client:
            client.admin.command("ping")

    def wait_for_primary(self):
        ends = time.monotonic() + START
        while time.monotonic() < ends:
            for host in self.hosts:
                tls = dict(tls=True, tlsInsecure=True, tlsCertificateKeyFile=str(self.folder / "tls/client.pem"))
                with pymongo.MongoClient(host, directConnection=True, **(tls if self.options.tls else {})) as client:
                    if client.admin.command("hello").get("isWritablePrimary"):
                        return
            time.sleep(0.1)
        raise Problem("the replica set has no primary")

    def uri(self, hosts=None, replica_set=True):
        options = {}
        if self.options.standalone or not replica_set:
            options["directConnection"] = "true"
        else:
            options["replicaSet"] = "tidelog" if self.mongod else "secantus"
        user = ""
        if self.options.auth:
            user = f"{USER}:{urllib.parse.quote(PASSWORD, safe='')}@"
            options |= {"authSource": "admin", "authMechanism": "SCRAM-SHA-256"}
        if self.options.tls and hosts is None:
            options |= self.tls_options(self.options.tls_client)
        return f"mongodb://{user}{hosts or ','.join(self.hosts)}/?{urllib.parse.urlencode(options, safe='/')}"

    def tls_options(self, client):
        tls = self.folder / "tls"
        options = {"tls": "true", "tlsCAFile": str(tls / "ca.pem")}
        return options | ({"tlsCertificateKeyFile": str(tls / "client.pem")} if client else {})

    def control(self, line):
        """What tests/mongodb/control says."""
        what, _, number = line.strip().partition(" ")
        number = int(number or 0)
        node = self.nodes[number]
        if what == "kill":
            node.end(signal.SIGKILL)
        elif what == "stop":
            node.end(signal.SIGTERM)
        elif what == "start":
            node.start()
            if not self.listening(number):
                raise Problem("it does not start: " + self.said(300).replace("\n", " "))
        elif what == "pause":
            node.pause(signal.SIGSTOP)
        elif what == "resume":
            node.pause(signal.SIGCONT)
        else:
            raise Problem("say kill, stop, start, pause or resume")

    def end(self):
        for node in self.nodes:
            if node.running():
                node.end(signal.SIGKILL)

    def environment(self):
        return {"TIDELOG_MONGODB_URI": self.uri(), "TIDELOG_MONGODB_DIRECT": self.uri(),
                "TIDELOG_MONGODB_HOST": self.hosts[0], "TIDELOG_MONGODB_SERVER": self.name}  # fmt: skip


class External:
    """The server of TIDELOG_TEST_MONGODB_URI: others use it, too."""

    def __init__(self, uri):
        self.base = uri
        self.prefix = f"t{os.urandom(3).hex()}-"  # short: the store takes 24 bytes in all

    def start(self):
        with pymongo.MongoClient(self.base) as client:
            client.admin.command("ping")

    def environment(self):
        base = self.base if "?" in self.base else self.base.rstrip("/") + "/?"
        separator = "" if base.endswith(("?", "&")) else "&"
        uri = f"{base}{separator}tidelogPrefix={self.prefix}"
        host = self.base.split("://", 1)[1].split("/")[0].rsplit("@")[-1]
        return {"TIDELOG_MONGODB_URI": uri, "TIDELOG_MONGODB_DIRECT": uri, "TIDELOG_MONGODB_HOST": host,
                "TIDELOG_MONGODB_SERVER": "external"}  # fmt: skip

    def control(self, line):
        raise Problem("this server is not ours: " + line.strip())

    def end(self):
        with pymongo.MongoClient(self.base) as client:
            for name in client.list_database_names():
                if name.startswith(self.prefix):
                    client.drop_database(name)


def start_proxy(server, options):
    """The proxy in front of the server; returns its process and what COMMAND's environment gets."""
    line = [sys.executable, str(HERE / "proxy.py"), server.hosts[0]]
    tls = server.folder / "tls"
    ends_tls = options.tls_expired or options.x509
    if ends_tls:
        line += ["--certificate", str(tls / ("expired.pem" if options.tls_expired else "server.pem"))]
    if options.x509:
        line += ["--client-ca", str(tls / "ca.pem"), "--x509-user", X509_USER]
    process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                               preexec_fn=die_with_parent)  # fmt: skip
    ports = process.stdout.readline().split()
    if len(ports) != 2:
        process.wait()
        raise Problem("the proxy does not start")
    host = f"127.0.0.1:{ports[0]}"
    more = server.tls_options(options.x509) if ends_tls else {}
    if options.x509:
        more |= {"authMechanism": "MONGODB-X509", "authSource": "$external"}
    uri = server.uri(host) + "".join(f"&{key}={value}" for key, value in more.items())
    return process, {"TIDELOG_MONGODB_URI": uri, "TIDELOG_MONGODB_HOST": host, "TIDELOG_MONGODB_PROXY": ports[1]}


# ---- the command -------------------------------------------------------------------------


def run(command, environment, server):
    """Runs the command and serves tests/mongodb/control meanwhile: all in one thread, since
    a child is to die with the thread that started it."""
    awake, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    with socket.create_server(("127.0.0.1", 0)) as control:
        environment = environment | {"TIDELOG_MONGODB_CONTROL": str(control.getsockname()[1])}
        child = subprocess.Popen(command, env=os.environ | environment, preexec_fn=die_with_parent)
        try:
            while child.poll() is None:
                ready, _, _ = select.select([control, awake], [], [], 1)
                if awake in ready:
                    awake.recv(4096)
                if control in ready:
                    serve(control, server)
        except Interrupted as signalled:
            child.send_signal(signalled.args[0])
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(10)
            raise
        finally:
            signal.set_wakeup_fd(-1)
            if child.poll() is None:
                child.kill()
                child.wait()
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def serve(control, server):
    connection, _ = control.accept()
    with connection, connection.makefile("rw") as lines:
        connection.settimeout(5)
        with contextlib.suppress(OSError):
            line = lines.readline()
            try:
                server.control(line)
                answer = "ok"
            except (Problem, ValueError, IndexError) as problem:
                answer = f"error: {problem}"
            lines.write(answer + "\n")
            lines.flush()


def sweep(parent):
    """Removes what a runner left behind that was killed."""
    for folder in Path(parent).glob(MARK + "*"):
        pid = folder.name[len(MARK) :].split("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            shutil.rmtree(folder, ignore_errors=True)


def arguments():
    parser = argparse.ArgumentParser(prog="with_server", description="runs a command beside a MongoDB server")
    parser.add_argument("--own", action="store_true", help="never the server of TIDELOG_TEST_MONGODB_URI")
    parser.add_argument("--durable", action="store_true", help="every commit is flushed to a disk; for crash tests")
    parser.add_argument("--standalone", action="store_true", help="no replica set")
    parser.add_argument("--nodes", type=int, default=1, help="of the replica set (mongod only)")
    parser.add_argument("--auth", action="store_true", help="a user with a password (SCRAM-SHA-256)")
    parser.add_argument("--tls", action="store_true", help="TLS with a certificate made on the spot")
    parser.add_argument("--tls-client", action="store_true", help="TLS, and clients show a certificate, too")
    parser.add_argument("--proxy", action="store_true", help="proxy.py between COMMAND and the server")
    parser.add_argument("--tls-expired", action="store_true", help="the proxy speaks TLS, with an expired certificate")
    parser.add_argument("--x509", action="store_true", help="the proxy speaks TLS and checks MONGODB-X509")
    parser.add_argument("--host", default="127.0.0.1", help="the name of the node")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument("command", nargs="+", metavar="COMMAND")
    options = parser.parse_args()
    options.proxy = options.proxy or options.tls_expired or options.x509
    options.tls = options.tls or options.tls_client
    if options.proxy and (options.tls or options.nodes > 1):
        parser.error("the proxy speaks to one node, without TLS")
    alone = ("own", "durable", "standalone", "auth", "tls", "proxy", "port")
    options.own = options.nodes > 1 or options.host != "127.0.0.1" or any(getattr(options, name) for name in alone)
    return options


def interrupted(number, _frame):
    raise Interrupted(number)


def main():
    options = arguments()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, interrupted)
    parent = tempfile.gettempdir() if options.durable or not os.access("/dev/shm", os.W_OK) else "/dev/shm"
    sweep(parent)
    folder = Path(tempfile.mkdtemp(prefix=f"{MARK}{os.getpid()}-", dir=parent))
    external = os.environ.get("TIDELOG_TEST_MONGODB_URI")
    server = proxy = None
    try:
        server = External(external) if external and not options.own else Server(options, folder)
        if options.tls or options.tls_expired or options.x509:
            make_certificates(folder / "tls")
        server.start()
        environment = server.environment()
        if options.proxy:
            proxy, more = start_proxy(server, options)
            environment |= more
        if (folder / "tls").exists():
            environment["TIDELOG_MONGODB_TLS"] = str(folder / "tls")
        if options.auth:
            environment["TIDELOG_MONGODB_PASSWORD"] = PASSWORD
        return run(options.command, environment, server)
    except Skip as why:
        print(f"SKIPPED: {why}", file=sys.stderr)
        return 1 if os.environ.get("CI") == "true" else 77
    except (Problem, OSError, pymongo.errors.PyMongoError) as problem:
        print(f"with_server: {problem}", file=sys.stderr)
        return 1
    except Interrupted as signalled:
        return 128 + signalled.args[0]
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # the rest is quick
        if proxy:
            proxy.kill()
            proxy.wait()
        if server:
            server.end()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
