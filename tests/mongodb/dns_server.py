"""A DNS server for tests/mongodb/with_srv: it knows one cluster, by some names, and nothing else.

mongodb+srv:// URIs are resolved by DNS alone, so a test of them needs a server that answers
for a name of the test's own. This one binds 127.0.0.1:53 and prints a line when it is ready.
"""

import ctypes
import signal
import socket
import sys

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

NODE, PORT = "node.tidelog.test.", sys.argv[1]
RECORDS = {
    ("_mongodb._tcp.db.tidelog.test.", "SRV"): [f"0 0 {PORT} {NODE}"],
    ("db.tidelog.test.", "TXT"): ['"authSource=admin"'],
    # What TXT records may say: the set, right for one kind of server each, and the database of
    # users, which is wrong here. And what they may not.
    ("_mongodb._tcp.secantus.tidelog.test.", "SRV"): [f"0 0 {PORT} {NODE}"],
    ("secantus.tidelog.test.", "TXT"): ['"replicaSet=secantus"'],
    ("_mongodb._tcp.mongod.tidelog.test.", "SRV"): [f"0 0 {PORT} {NODE}"],
    ("mongod.tidelog.test.", "TXT"): ['"replicaSet=tidelog"'],
    ("_mongodb._tcp.nimda.tidelog.test.", "SRV"): [f"0 0 {PORT} {NODE}"],
    ("nimda.tidelog.test.", "TXT"): ['"authSource=nimda"'],
    ("_mongodb._tcp.weak.tidelog.test.", "SRV"): [f"0 0 {PORT} {NODE}"],
    ("weak.tidelog.test.", "TXT"): ['"w=1"'],
    # A record that leads out of the domain, which drivers must refuse:
    ("_mongodb._tcp.elsewhere.tidelog.test.", "SRV"): [f"0 0 {PORT} node.example.com."],
    (NODE, "A"): ["127.0.0.1"],
    ("node.example.com.", "A"): ["127.0.0.1"],
}
NAMES = {name for name, _ in RECORDS}


def answer(query):
    response = dns.message.make_response(query)
    response.flags |= dns.flags.AA
    for question in query.question:
        name = question.name.to_text().lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        records = RECORDS.get((name, kind), [])
        if records:
            response.answer.append(dns.rrset.from_text(question.name, 60, "IN", kind, *records))
        elif name not in NAMES:
            response.set_rcode(dns.rcode.NXDOMAIN)
    return response


def main():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: ends with its parent
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 53))
        print("ready", flush=True)
        while True:
            data, client = server.recvfrom(4096)
            server.sendto(answer(dns.message.from_wire(data)).to_wire(), client)


if __name__ == "__main__":
    main()
