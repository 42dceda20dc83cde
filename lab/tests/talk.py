"""A long talk over one TCP connection with the guest's echo (port 7): a numbered line each 20 ms, until SIGTERM.

Says CONNECTED, and in the end how many lines came back whole and in order, and the longest time in which nothing did.

Usage: talk.py ADDRESS
"""

import select
import signal
import socket
import sys
import time

EVERY = 0.02
PATIENCE = 60  # seconds that what is under way may take in the end


def main(address):
    asked_to_end = []
    signal.signal(signal.SIGTERM, lambda *_: asked_to_end.append(True))
    connection = socket.create_connection((address, 7), PATIENCE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setblocking(False)
    print("CONNECTED", flush=True)
    number = wanted = 0
    unsent = rest = b""
    silence, last, since = 0.0, time.monotonic(), 0.0
    due, open_end, deadline = last, True, None
    while True:
        now = time.monotonic()
        if asked_to_end and deadline is None:
            deadline = now + PATIENCE
        if deadline and now > deadline:
            sys.exit(f"only {wanted} of {number} lines came back")
        if now >= due and not deadline:
            unsent += b"%d\n" % number
            number += 1
            due = max(due + EVERY, now)
        if deadline and not unsent and open_end:
            connection.shutdown(socket.SHUT_WR)
            open_end = False
        wait = 1 if deadline else max(0, due - now)
        readable, writable, _ = select.select([connection], [connection] if unsent else [], [], wait)
        if writable:
            unsent = unsent[connection.send(unsent) :]
        if not readable:
            continue
        bytes_read = connection.recv(65536)
        now = time.monotonic()
        if now - last > silence:
            silence, since = now - last, time.time() - (now - last)
        last = now
        if not bytes_read:
            break
        *lines, rest = (rest + bytes_read).split(b"\n")
        for line in lines:
            if line != b"%d" % wanted:
                sys.exit(f"line {wanted} came back as {line!r}")
            wanted += 1
    if rest or wanted != number:
        sys.exit(f"the guest closed the connection: {wanted} of {number} lines came back")
    print(f"silence began at {since:.6f}")
    print(f"WHOLE {number} lines, silence {silence:.2f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
