# SPDX-License-Identifier: Apache-2.0 OR MIT
"""A client of zcnic's control socket, for tests (docs/control-protocol.md, docs/faults.md).

    import zcnic

    port = zcnic.connect().port("1")
    with port.fault("rx", "drop", nth=3) as fault:
        ...                                 # traffic
        fault.wait(hits=1, timeout=5)

One file for Python 3.9 or later without dependencies. connect() finds the control socket by itself
in a guest; on the host it takes the socket's path, or that in ZCNIC_CONTROL. Times are in seconds.
Commands that the backend refuses raise zcnic.Error, waits that time out zcnic.Timeout.
"""

import json
import os
import select
import socket
import stat
import time

__all__ = ["connect", "Client", "Port", "Fault", "Error", "Timeout", "Closed", "NotControl"]

ENVIRONMENT = "ZCNIC_CONTROL"
PORT_NAME = "zcnic.control"
GREETING_TIMEOUT = 5.0
ANSWER_TIMEOUT = 10.0
RETRY_INTERVAL = 0.05
# Answers about all queues of all ports are longer than requests may be.
LONGEST_LINE = 64 * 65536


class Error(Exception):
    """A command was refused, or failed. `error_class` is for programs: "NotFound", "GenericError"."""

    def __init__(self, desc, error_class=None):
        super().__init__(desc)
        self.error_class = error_class


class Timeout(Error):
    """An awaited hit, event or answer did not come in time."""


class Closed(Error):
    """The backend closed the connection."""


class NotControl(Error):
    """The socket is not a control socket of zcnic."""


def _kebab(members):
    return {name.replace("_", "-"): value for name, value in members.items()}


def find_port():
    """The virtio-serial port of this guest that is wired to a backend, or None."""
    ports = "/sys/class/virtio-ports"
    try:
        entries = os.listdir(ports)
    except OSError:
        return None
    for entry in sorted(entries):
        try:
            with open(os.path.join(ports, entry, "name"), encoding="utf-8") as file:
                if file.read().strip() == PORT_NAME:
                    return os.path.join("/dev", entry)
        except OSError:
            continue
    return None


def connect(path=None):
    """Connects to the control socket `path`, or else to that in ZCNIC_CONTROL or of this guest."""
    path = path or os.environ.get(ENVIRONMENT) or find_port()
    if not path:
        raise Error(f"The control socket is unknown: give its path or set {ENVIRONMENT}")
    return Client(path)


class Client:
    """A connection to a backend. Its methods are the commands of the control protocol."""

    def __init__(self, path):
        self.path = os.fspath(path)
        self.greeting = None
        self._received = b""
        self._events = []
        self._requests = 0
        self._socket = None
        self._fd = -1
        if stat.S_ISCHR(os.stat(self.path).st_mode):
            self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
            start = self._take_over
        else:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            start = self._await_greeting
        try:
            if self._socket:
                self._socket.settimeout(GREETING_TIMEOUT)
                self._socket.connect(self.path)
                self._socket.setblocking(False)
                self._fd = self._socket.fileno()
            start()
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """Closes the connection. Rules stay."""
        fd, self._fd = self._fd, -1
        if self._socket:
            self._socket.close()
        elif fd >= 0:
            os.close(fd)

    def execute(self, command, /, patience=ANSWER_TIMEOUT, **arguments):
        """Executes a command, with "-" for "_" in the names of arguments, and returns its result.

        `patience` is the time for the answer.
        """
        self._requests += 1
        deadline = time.monotonic() + patience
        self._send({"execute": command, "arguments": _kebab(arguments), "id": self._requests}, deadline)
        try:
            answer = self._answer(deadline)
        except (Timeout, KeyboardInterrupt):
            # An empty line ends a pending wait, so that the next command need not wait for it.
            self._write(b"\n", time.monotonic() + RETRY_INTERVAL)
            raise
        if "error" in answer:
            failure = answer["error"]
            kind = Timeout if failure["class"] == "Timeout" else Error
            raise kind(failure["desc"], failure["class"])
        return answer["return"]

    def port(self, name):
        """The port `name`: that of the command line, or its number from 0."""
        return Port(self, str(name))

    def status(self):
        """State of ports and cables."""
        return self.execute("query-status")

    def stats(self):
        """Counters of ports and queue pairs."""
        return self.execute("query-stats")

    def faults(self):
        """The fault rules of all ports."""
        return self.execute("fault-list")["faults"]

    def subscribe(self, *kinds):
        """Sets the kinds of events that event() returns, such as "fault-hit" and "violation"."""
        self.execute("subscribe", events=list(kinds))

    def event(self, timeout=ANSWER_TIMEOUT):
        """The next event: a dict with its kind, "event", and its members, "data"."""
        if self._events:
            return self._events.pop(0)
        return self._line(time.monotonic() + timeout)

    def _answer(self, deadline):
        while True:
            line = self._line(deadline)
            if "event" in line:
                self._events.append(line)
            elif line.get("id") == self._requests:
                return line

    def _await_greeting(self):
        wrong = f"{self.path} is not a control socket of zcnic: "
        deadline = time.monotonic() + GREETING_TIMEOUT
        try:
            # A control socket skips an empty line. The socket of a port answers that it is one.
            self._write(b" \n", deadline)
        except ConnectionError:
            pass  # It has answered and closed the connection.
        try:
            line = self._bytes(deadline)
        except Timeout:
            raise NotControl(
                f"{wrong}no greeting within {GREETING_TIMEOUT:.0f} s; ports' sockets are for QEMU"
            ) from None
        try:
            greeting = json.loads(line)
            if "error" in greeting:
                failure = greeting["error"]
                raise Error(f"{self.path}: {failure['desc']}", failure["class"])
            self.greeting = greeting["zcnic"]
        except (ValueError, KeyError, TypeError):
            raise NotControl(f"{wrong}it greets with {line[:60]!r}") from None

    def _take_over(self):
        """Ends requests, waits and subscriptions of programs that used the port before."""
        deadline = time.monotonic() + ANSWER_TIMEOUT
        while True:
            try:
                return self._resynchronise(deadline)
            except (Closed, OSError):
                # The backend is being restarted, and there is no notification of the next one.
                if time.monotonic() >= deadline:
                    raise
                self._received = b""
                time.sleep(RETRY_INTERVAL)

    def _resynchronise(self, deadline):
        asked = self._ask_for_nothing(deadline)
        while True:
            try:
                line = json.loads(self._bytes(deadline))
            except ValueError:
                continue
            if not isinstance(line, dict):
                continue
            if line.get("id") == asked:
                return
            if "zcnic" in line:
                # A backend that was exchanged may not have received the request.
                self.greeting = line["zcnic"]
                asked = self._ask_for_nothing(deadline)

    def _ask_for_nothing(self, deadline):
        asked = f"{os.getpid()}-{time.time_ns()}"
        self._write(b"\n", deadline)
        self._send({"execute": "subscribe", "arguments": {"events": []}, "id": asked}, deadline)
        return asked

    def _send(self, request, deadline):
        self._write(json.dumps(request).encode() + b"\n", deadline)

    def _write(self, data, deadline):
        while data:
            self._wait(select.POLLOUT, deadline)
            try:
                data = data[os.write(self._fd, data):]
            except BlockingIOError:
                pass

    def _line(self, deadline):
        return json.loads(self._bytes(deadline))

    def _bytes(self, deadline):
        while b"\n" not in self._received:
            if len(self._received) > LONGEST_LINE:
                raise Error("The backend sent a line that is too long")
            self._wait(select.POLLIN, deadline)
            try:
                more = os.read(self._fd, 65536)
            except BlockingIOError:
                continue
            if not more:
                raise Closed("The backend closed the connection")
            self._received += more
        line, self._received = self._received.split(b"\n", 1)
        return line

    def _wait(self, event, deadline):
        if self._fd < 0:
            raise Closed("The connection is closed")
        poll = select.poll()
        poll.register(self._fd, event)
        left = deadline - time.monotonic()
        ready = poll.poll(max(0, left) * 1000)
        if not ready:
            raise Timeout("The backend did not answer in time")
        # The other end of a virtio-serial port is closed: a write would block until it is opened.
        if event == select.POLLOUT and ready[0][1] & (select.POLLHUP | select.POLLERR):
            raise Closed("The backend closed the connection")


class Port:
    """A port of a backend."""

    def __init__(self, client, name):
        self.client = client
        self.name = name

    def fault(self, direction, action, **members):
        """Adds a fault rule. As the value of a `with` statement it is removed at the end.

        `action` is a name, or a dict of one name and its parameters: {"delay": {"nanoseconds": 5000}}.
        Members are those of docs/faults.md: nth, every, probability, queue, times, opcode, state …;
        protocol, source, destination, source_port and destination_port choose a flow.
        """
        flow = ("protocol", "source", "destination", "source_port", "destination_port")
        rule = {"direction": direction, "action": action}
        rule.update((name, value) for name, value in members.items() if name not in flow)
        pattern = _kebab({name: members[name] for name in flow if members.get(name) is not None})
        if pattern:
            rule["match"] = pattern
        added = self.client.execute("fault-add", port=self.name, rules=[rule])
        return Fault(self.client, added["ids"][0])

    def remove_faults(self):
        """Removes all rules of the port."""
        self.client.execute("fault-remove", port=self.name)

    def status(self):
        """State of the port."""
        return self._own(self.client.status()["ports"])

    def stats(self):
        """Counters of the port and its queue pairs."""
        return self._own(self.client.stats()["ports"])

    def features(self):
        """Negotiated and offered features."""
        return self.client.execute("query-features", port=self.name)

    def queues(self):
        """Queue pairs and rings."""
        return self.client.execute("query-queues", port=self.name)["pairs"]

    def steering(self):
        """Address filter, RSS contexts and flow rules."""
        return self.client.execute("query-steering", port=self.name)

    def set_ledger(self, mode, sanitize=False, overdue=None):
        """Starts a new ledger: "off", "counting" or "full". `overdue` is in seconds."""
        settings = {"mode": mode, "sanitize": sanitize}
        if overdue is not None:
            settings["overdue"] = round(overdue * 1e9)
        self.client.execute("ledger-set", port=self.name, **settings)

    def ledger(self):
        """The ledger of each receive queue."""
        return self.client.execute("query-ledger", port=self.name)["queues"]

    def set_link(self, up):
        """Switches the carrier on or off."""
        self.client.execute("link-set", port=self.name, up=up)

    def reset(self):
        """Resets the device: its session ends, and its configuration is erased."""
        self.client.execute("device-reset", port=self.name)

    def disconnect(self):
        """Ends the connection to the virtual machine monitor."""
        self.client.execute("disconnect", port=self.name)

    def count_flow(self, **flow):
        """Begins to count the frames of a flow, and returns a function with the counts so far."""
        added = self.client.execute("flow-counter-add", port=self.name, match=_kebab(flow))
        counter = added["id"]
        return lambda: self.client.execute("flow-counter-query", id=counter)["queues"]

    def _own(self, ports):
        for port in ports:
            if port["name"] == self.name:
                return port
        raise Error(f"No port {self.name}", "NotFound")


class Fault:
    """A fault rule."""

    def __init__(self, client, number):
        self.client = client
        self.id = number

    def wait(self, hits=1, timeout=60.0):
        """Waits until the rule has hit that often, and returns its counts; raises Timeout."""
        patience = timeout + ANSWER_TIMEOUT
        nanoseconds = round(timeout * 1e9)
        return self.client.execute(
            "fault-wait", patience, id=self.id, hits=hits, timeout=nanoseconds
        )

    def hits(self):
        """The number of frames or commands that the rule has hit so far."""
        return self.wait(0, 0)["hits"]

    def remove(self):
        """Removes the rule. Frames that it holds back are sent."""
        self.client.execute("fault-remove", id=self.id)

    def __enter__(self):
        return self

    def __exit__(self, kind, *exception):
        try:
            self.remove()
        except (Error, OSError):
            # What went wrong in the block is the better message.
            if kind is None:
                raise
