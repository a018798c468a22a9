"""A proxy between the engine and a MongoDB server that breaks things on demand.

A server's failpoints fail cleanly. Networks do not: an acknowledgement is lost after the
write took effect, a message is cut in the middle, a request arrives after its sender gave up.
And the tests' server is only one of the kinds that there are. This proxy knows the wire
protocol (OP_MSG, and OP_QUERY for the first hello), so it can do such a thing to exactly the
second `insert` into `events`, and make the server look like another kind.

  proxy.py HOST:PORT [--certificate FILE [--client-ca FILE --x509-user NAME]]

prints two loopback ports: its own, and that of the control channel, on which each line is a
JSON document and gets one line of JSON back:

  {"do": "add", RULE...}     {"ok": 1, "id": n}
  {"do": "remove", "id": n}
  {"do": "pretend", "as": "standalone"}    the rules of PRETENCES; {"ids": [...]}
  {"do": "stats"}   what was seen: commands by name, inserts (documents and bytes of each),
                    connections, and how often each rule fired
  {"do": "reset"}   no rules, all counts from 0, requests held back are forgotten
  {"do": "release"} delivers the requests held back; {"replies": [...]} of the server
  {"do": "cut"}     cuts every connection
  {"do": "refuse", "on": true}   refuses connections, and cuts those that there are

A rule says which requests it is for: `command` (a name or a list; none: every one), `db`,
`collection`, `contains` (a text somewhere in the request), after `skip` of them (default 0),
`times` in all (default 1, 0: always); and what is done with one, its `action`:

  cut_before          the connection is cut, the request not forwarded
  cut_request         cut in the middle of the request: the server sees half of it
  cut_after           forwarded and carried out, but the client sees a cut and no answer
  cut_reply           cut in the middle of the answer
  delay               `ms` before it is forwarded
  trickle             request and answer in small pieces, with pauses
  black_hole          nothing, ever: not forwarded, not answered
  mute                forwarded and carried out, never answered
  hold                kept back until `ms` have passed or until "release", and then delivered,
                      whatever became of the client; with `cut`, its connection is cut at once
  answer              `reply` is the answer, not forwarded
  amend               in the server's answer `set` sets fields and `unset` removes some
"""

import argparse
import asyncio
import contextlib
import ctypes
import signal
import ssl
import struct
import sys

import bson
from bson import json_util

OP_REPLY, OP_QUERY, OP_MSG = 1, 2004, 2013
MORE_TO_COME = 2
HELLO = {"ismaster": "hello", "isMaster": "hello", "findandmodify": "findAndModify"}
SET_FIELDS = ("setName", "setVersion", "hosts", "passives", "arbiters", "primary", "me", "secondary", "electionId",
              "lastWrite", "tags")  # fmt: skip
INSERTS = 2000  # that `stats` tells of


def refusal(contains, code, message):
    reply = {"ok": 0.0, "code": code, "errmsg": message}
    return {"contains": contains, "times": 0, "action": "answer", "reply": reply}


def hello(**fields):
    return {"command": "hello", "times": 0, "action": "amend", **fields}


NOT_IN_A_SET = "Transaction numbers are only allowed on a replica set member or mongos"
PRETENCES = {
    "standalone": [
        hello(unset=SET_FIELDS),
        refusal("txnNumber", 20, NOT_IN_A_SET),
        refusal("$changeStream", 40573, "The $changeStream stage is only supported on replica sets"),
    ],
    "load_balanced": [
        hello(set={"serviceId": bson.ObjectId("0123456789abcdef01234567"), "msg": "isdbgrid"}, unset=SET_FIELDS)
    ],
    "old": [hello(set={"maxWireVersion": 5})],
    "no_sessions": [hello(unset=["logicalSessionTimeoutMinutes"])],
    "no_transactions": [refusal("startTransaction", 20, NOT_IN_A_SET)],
    "no_transactions_here": [refusal("startTransaction", 263, "Cannot run this in a multi-document transaction")],
    "no_change_streams": [refusal("$changeStream", 40573, "The $changeStream stage is only supported on replica sets")],
    "no_change_streams_here": [refusal("$changeStream", 115, "$changeStream is not supported")],
    "no_api_version": [refusal("apiVersion", 40415, "BSON field 'apiVersion' is an unknown field.")],
    "no_now": [refusal("$$NOW", 17276, "Use of undefined variable: NOW")],
}


class Cut(Exception):
    """The client's connection is to be cut now."""


class Request:
    """A client's message: its bytes and, where it is a command, what that says."""

    def __init__(self, data):
        self.data = data
        _, self.id, _, self.op = struct.unpack_from("<iiii", data)
        self.body, self.documents, self.flags = {}, 0, 0
        if self.op == OP_MSG:
            self.read_msg()
        elif self.op == OP_QUERY:
            at = data.index(b"\0", 20) + 1 + 8
            self.body = bson.decode(data[at : at + struct.unpack_from("<i", data, at)[0]])
            self.body["$db"] = "admin"
        first = next(iter(self.body), "")
        self.command = HELLO.get(first, first)
        self.db = self.body.get("$db", "")
        target = self.body.get(first)
        self.collection = target if isinstance(target, str) else ""

    def read_msg(self):
        (self.flags,) = struct.unpack_from("<I", self.data, 16)
        at, end = 20, len(self.data) - (4 if self.flags & 1 else 0)
        while at < end:
            kind, (size,) = self.data[at], struct.unpack_from("<i", self.data, at + 1)
            if kind == 0:
                self.body = bson.decode(self.data[at + 1 : at + 1 + size])
            else:
                document = self.data.index(b"\0", at + 5) + 1
                while document < at + 1 + size:
                    self.documents += 1
                    document += struct.unpack_from("<i", self.data, document)[0]
            at += 1 + size
        self.documents += len(self.body.get("documents", ()))

    def without(self, field):
        """The same request, without a field of its body."""
        if field not in self.body:
            return self
        body = {key: value for key, value in self.body.items() if key != field}
        if self.op == OP_QUERY:
            del body["$db"]
            start = self.data.index(b"\0", 20) + 1 + 8
            return Request(message(self.id, 0, OP_QUERY, self.data[16:start] + bson.encode(body)))
        return Request(message(self.id, 0, OP_MSG, struct.pack("<IB", self.flags & ~1, 0) + bson.encode(body)))


def message(request_id, response_to, op, payload):
    return struct.pack("<iiii", 16 + len(payload), request_id, response_to, op) + payload


def reply_to(request, document):
    document = {"ok": 1.0, **document}
    if request.op == OP_QUERY:
        payload = struct.pack("<iqii", 8, 0, 0, 1) + bson.encode(document)
        return message(0, request.id, OP_REPLY, payload)
    return message(0, request.id, OP_MSG, struct.pack("<IB", 0, 0) + bson.encode(document))


def reply_body(data):
    """The document of an answer, and where it begins."""
    (op,) = struct.unpack_from("<i", data, 12)
    at = 36 if op == OP_REPLY else 21
    return bson.decode(data[at : at + struct.unpack_from("<i", data, at)[0]]), at


def amended(data, change):
    """The answer with its document changed by change(document)."""
    document, at = reply_body(data)
    change(document)
    data = bytearray(data[:at] + bson.encode(document))
    struct.pack_into("<i", data, 0, len(data))
    if at == 21:
        struct.pack_into("<I", data, 16, struct.unpack_from("<I", data, 16)[0] & ~1)  # no checksum
    return bytes(data)


async def read_message(reader):
    head = await reader.readexactly(4)
    return head + await reader.readexactly(struct.unpack("<i", head)[0] - 4)


async def trickle(writer, data, rule):
    piece = rule.get("piece", max(1, len(data) // 20))
    for at in range(0, len(data), piece):
        writer.write(data[at : at + piece])
        await writer.drain()
        await asyncio.sleep(rule.get("pause", 5) / 1000)


class Proxy:
    def __init__(self, upstream, options):
        self.host, port = upstream.rsplit(":", 1)
        self.port, self.options = int(port), options
        self.clients, self.tasks = set(), set()
        self.refusing = False
        self.next_id = 0
        self.reset()

    def reset(self):
        self.rules, self.fired = {}, {}
        self.commands, self.inserts, self.connections = {}, [], 0
        self.held = []  # (an event that releases, the task that delivers)

    # ---- the control channel ------------------------------------------------------------

    async def control(self, reader, writer):
        with contextlib.closing(writer):
            while line := await reader.readline():
                try:
                    answer = {"ok": 1, **(await self.told(json_util.loads(line)) or {})}
                except (KeyError, ValueError, TypeError) as problem:
                    answer = {"ok": 0, "error": repr(problem)}
                writer.write(json_util.dumps(answer).encode() + b"\n")
                await writer.drain()

    async def told(self, line):
        what = line.pop("do")
        if what == "add":
            return {"id": self.add(line)}
        if what == "pretend":
            return {"ids": [self.add(dict(rule)) for rule in PRETENCES[line["as"]]]}
        if what == "stats":
            return {"commands": self.commands, "inserts": self.inserts[-INSERTS:], "connections": self.connections,
                    "fired": {str(rule): times for rule, times in self.fired.items()}}  # fmt: skip
        if what == "release":
            held, self.held = self.held, []
            for event, _ in held:
                event.set()
            return {"replies": [await delivered for _, delivered in held]}
        if what == "remove":
            del self.rules[line["id"]]
        elif what == "reset":
            self.reset()
        elif what == "cut":
            self.cut()
        elif what == "refuse":
            self.refusing = line["on"]
            self.cut()
        else:
            raise ValueError(f"no such command: {what}")
        return None

    def add(self, rule):
        if isinstance(rule.get("command"), str):
            rule["command"] = [rule["command"]]
        if not hasattr(self, "do_" + rule["action"]):
            raise ValueError("no such action: " + rule["action"])
        self.next_id += 1
        self.rules[self.next_id], self.fired[self.next_id] = rule, 0
        return self.next_id

    def cut(self):
        for writer in self.clients:
            writer.transport.abort()

    # ---- connections ----------------------------------------------------------------------

    async def client(self, reader, writer):
        if self.refusing:
            writer.transport.abort()
            return
        self.connections += 1
        self.clients.add(writer)
        session = Session(self, reader, writer)
        try:
            await session.serve()
        except (OSError, asyncio.IncompleteReadError, Cut):
            writer.transport.abort()
        finally:
            self.clients.discard(writer)
            session.close()

    def background(self, coroutine):
        task = asyncio.create_task(coroutine)
        self.tasks.add(task)  # which keeps it alive
        task.add_done_callback(self.tasks.discard)
        return task

    def matching(self, request):
        """The rules that this request meets, each of which has then fired once more."""
        for number, rule in list(self.rules.items()):
            if "command" in rule and request.command not in rule["command"]:
                continue
            if rule.get("db", request.db) != request.db:
                continue
            if rule.get("collection", request.collection) != request.collection:
                continue
            if rule.get("contains", "").encode() not in request.data:
                continue
            if rule.get("skip", 0) > 0:
                rule["skip"] -= 1
                continue
            times = rule.get("times", 1)
            if times and self.fired[number] >= times:
                continue
            self.fired[number] += 1
            yield rule

    def count(self, request):
        self.commands[request.command] = self.commands.get(request.command, 0) + 1
        if request.command == "insert":
            self.inserts.append({"db": request.db, "collection": request.collection,
                                 "documents": request.documents, "bytes": len(request.data)})  # fmt: skip

    # ---- what is done with a request: each gives the answers for the client -----------------

    async def do_cut_before(self, session, request, rule):
        raise Cut

    async def do_cut_request(self, session, request, rule):
        server = await session.server()
        server.write(request.data[: len(request.data) // 2])
        await server.drain()
        raise Cut

    async def do_cut_after(self, session, request, rule):
        await session.ask(request)
        raise Cut

    async def do_cut_reply(self, session, request, rule):
        answer = await session.ask(request)
        session.writer.write(answer[: len(answer) // 2])
        await session.writer.drain()
        session.writer.close()  # not aborted: what was written arrives
        raise asyncio.IncompleteReadError(b"", None)

    async def do_delay(self, session, request, rule):
        await asyncio.sleep(rule["ms"] / 1000)
        return await session.ask(request)

    async def do_trickle(self, session, request, rule):
        await trickle(await session.server(), request.data, rule)
        await trickle(session.writer, await session.answer(), rule)
        return b""

    async def do_black_hole(self, session, request, rule):
        await session.gone()

    async def do_mute(self, session, request, rule):
        await session.ask(request)
        await session.gone()

    async def do_hold(self, session, request, rule):
        event = asyncio.Event()
        delivered = self.background(self.deliver_late(request, event, rule.get("ms")))
        self.held.append((event, delivered))
        if rule.get("cut"):
            raise Cut
        await session.gone()

    async def deliver_late(self, request, event, ms):
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(event.wait(), ms / 1000 if ms is not None else None)
        reader, writer = await asyncio.open_connection(self.host, self.port)
        with contextlib.closing(writer):
            writer.write(request.data)
            await writer.drain()
            return reply_body(await read_message(reader))[0]

    async def do_answer(self, session, request, rule):
        return reply_to(request, rule["reply"])

    async def do_amend(self, session, request, rule):
        def change(document):
            for field in rule.get("unset", ()):
                document.pop(field, None)
            document.update(rule.get("set", {}))

        session.changes.append(change)


class Session:
    """A client's connection, and its own to the server."""

    def __init__(self, proxy, reader, writer):
        self.proxy, self.reader, self.writer = proxy, reader, writer
        self.upstream = None
        self.changes = []  # to the answers of the request at hand
        self.trusted = not proxy.options.x509_user
        certificate = writer.get_extra_info("peercert") or {}
        names = {"countryName": "C", "organizationName": "O", "organizationalUnitName": "OU", "commonName": "CN"}
        subject = [f"{names.get(key, key)}={value}" for rdn in certificate.get("subject", ()) for key, value in rdn]
        self.subject = ",".join(reversed(subject))

    async def serve(self):
        while True:
            request = Request(await read_message(self.reader))
            self.proxy.count(request)
            self.changes = []
            if request.command == "hello":
                self.changes.append(self.at_home)
            answer = self.guard(request)
            if answer is None:
                if self.proxy.options.x509_user:
                    request = request.without("speculativeAuthenticate")
                for rule in self.proxy.matching(request):
                    answer = await getattr(self.proxy, "do_" + rule["action"])(self, request, rule)
                    if answer is not None:
                        break
            if answer is None:
                answer = await self.ask(request)
            self.writer.write(answer)
            await self.writer.drain()
            while answer and struct.unpack_from("<i", answer, 12)[0] == OP_MSG and answer[16] & MORE_TO_COME:
                answer = await self.answer()
                self.writer.write(answer)
                await self.writer.drain()

    def at_home(self, document):
        """In the server's hello: whoever wants a member of the set comes here."""
        here = self.proxy.address
        if "hosts" in document:
            document.update(hosts=[here], primary=here, me=here)
        document.pop("compression", None)

    def guard(self, request):
        """Where clients authenticate by their certificates: answers for those that did not."""
        options = self.proxy.options
        if request.command == "authenticate" and options.x509_user:
            claimed = request.body.get("user", self.subject)
            self.trusted = self.subject == options.x509_user and claimed == self.subject
            if self.trusted:
                return reply_to(request, {"dbname": "$external", "user": self.subject})
            return reply_to(request, {"ok": 0.0, "code": 18, "errmsg": "Authentication failed."})
        if not self.trusted and request.command != "hello":
            return reply_to(request, {"ok": 0.0, "code": 13, "errmsg": "Command requires authentication"})
        return None

    async def server(self):
        if self.upstream is None:
            self.upstream = await asyncio.open_connection(self.proxy.host, self.proxy.port, limit=1 << 20)
        return self.upstream[1]

    async def ask(self, request):
        server = await self.server()
        server.write(request.data)
        await server.drain()
        return b"" if request.flags & MORE_TO_COME else await self.answer()

    async def answer(self):
        data = await read_message(self.upstream[0])
        for change in self.changes:
            data = amended(data, change)
        return data

    async def gone(self):
        """Waits until the client gives up."""
        while await self.reader.read(1 << 16):
            pass
        raise Cut

    def close(self):
        if self.upstream:
            self.upstream[1].close()
        self.writer.close()


def tls_of(options):
    if not options.certificate:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(options.certificate)
    if options.client_ca:
        context.load_verify_locations(options.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("upstream", metavar="HOST:PORT")
    parser.add_argument("--certificate", help="speak TLS, with this certificate and key")
    parser.add_argument("--client-ca", help="clients show a certificate of this authority")
    parser.add_argument("--x509-user", help="... and authenticate as this one")
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: ends with its parent
    proxy = Proxy(options.upstream, options)
    server = await asyncio.start_server(proxy.client, "127.0.0.1", 0, ssl=tls_of(options), limit=1 << 20)
    control = await asyncio.start_server(proxy.control, "127.0.0.1", 0, limit=1 << 25)
    port = server.sockets[0].getsockname()[1]
    proxy.address = f"127.0.0.1:{port}"
    print(port, control.sockets[0].getsockname()[1], flush=True)
    sys.stdout.close()
    async with server, control:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
