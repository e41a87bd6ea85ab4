"""The one place every incoming call goes through.

In order: find object and member, check types and options, tell who calls, ask polkit, serve,
answer. What is only read from memory is answered at once and in order; the rest is a task per
call, bounded per caller and in all, so that nobody waits for another's prompt.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dbus_fast import Message, MessageFlag, MessageType

from bootcd.bus import logcontrol
from bootcd.bus.callers import Caller, Callers, read_without_waiting
from bootcd.bus.connection import Connection, ConnectionEnded, close_all
from bootcd.bus.errors import ProtocolError, describe
from bootcd.bus.inbox import BODY_LIMIT, CUT
from bootcd.bus.interfaces import JOB_ROOT
from bootcd.bus.objects import ObjectTree
from bootcd.bus.polkit import Authority
from bootcd.bus.schema import PEER, PROPERTIES, Interface, Method
from bootcd.host.peers import Peer
from bootcd.model.errors import InvalidArguments, InvalidImage
from bootcd.model.job import Requester
from bootcd.model.right import Right

_log = logging.getLogger(__name__)

ACTION_PREFIX = "org.bootcd1."
_CALLS_PER_SENDER = 32
_CALLS_PER_USER = 128
_CALLS = 1024
_IMAGE_CHARACTERS = 1024


@dataclass(frozen=True, slots=True)
class Call:
    """A checked and authorised call: `arguments` without the options, `options` by name."""

    path: str
    caller: Caller
    method: Method
    arguments: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    action: str = ""
    "Last part of the polkit action that was asked for; root is not asked."

    @property
    def requester(self) -> Requester:
        return self.caller.requester()

    def given(self) -> dict[str, Any]:
        """Return arguments and options by the names `JobOptions` has for them."""
        names = (argument.name for argument in self.method.inputs)
        given = {**dict(zip(names, self.arguments, strict=False)), **self.options}
        return {name.replace("-", "_"): value for name, value in given.items()}


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A file descriptor in an answer; it is closed once the answer is on its way."""

    number: int


Handler = Callable[[Call], Awaitable[list[Any]]]
Handlers = Mapping[tuple[str, str], Handler]
"By interface and method name."
Readers = Mapping[tuple[str, str], Callable[[Mapping[str, Any]], list[Any] | None]]
"Likewise, what answers from memory by the options alone; None where the handler has to wait for something."


@dataclass(slots=True)
class _Served:
    task: asyncio.Task[None]
    committed: bool = False
    "Past authorisation: the work goes on whether or not the caller is still there."


class Dispatcher:
    """Serves the calls of one connection.

    `owner_of` names the user a job path belongs to, `verified` tells whether the image the host tracks
    comes in with a signature only.
    """

    def __init__(
        self,
        connection: Connection,
        tree: ObjectTree,
        handlers: Handlers,
        readers: Readers,
        owner_of: Callable[[str], int | None],
        verified: Callable[[], bool],
    ) -> None:
        self._connection = connection
        self._tree = tree
        self._handlers = handlers
        self._readers = readers
        self._owner_of = owner_of
        self._verified = verified
        self._callers = Callers(connection)
        self._authority = Authority(connection)
        self._served: dict[str, list[_Served]] = {}
        self._users: Counter[int] = Counter()

    def handle(self, message: Message) -> bool:
        """Take a message of the bus; true if nobody else needs to see it."""
        if gone := self._callers.vanished(message):
            self._abandon(gone)
        if message.message_type is not MessageType.METHOD_CALL:
            return False
        try:
            self._accept(message)
        except Exception as error:
            self._refuse(message, error)
        return True

    async def authorise(
        self, peer: Peer, action: str, details: Mapping[str, str], *, interactive: bool
    ) -> None:
        """Ask polkit for a process that is not on the bus."""
        await self._authority.require_of_process(
            peer, ACTION_PREFIX + action, details, interactive=interactive
        )

    def abandon_all(self) -> None:
        """Give up every call that has not been authorised yet, or only waits."""
        for sender in list(self._served):
            self._abandon(sender)

    async def stop(self) -> None:
        """Give up every call."""
        tasks = [served.task for calls in self._served.values() for served in calls]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self, message: Message) -> None:
        if message.flags & CUT:
            raise ProtocolError("LimitsExceeded", f"the arguments are larger than {BODY_LIMIT} bytes")
        interface, method = self._find(message)
        if message.signature != method.signature:
            raise InvalidArguments(
                f"{interface.name}.{method.name} takes ({method.signature}), not ({message.signature})"
            )
        if handler := self._handler(message, interface, method):
            arguments, options = _checked(message, method)
            reader = self._readers.get((interface.name, method.name))
            body = reader(options) if reader else None
            if body is None:
                self._serve_later(message, method, handler, arguments, options)
            else:
                self._answer(message, method, body)
        else:
            self._answer(message, method, self._answer_of_tree(message))

    def _handler(self, message: Message, interface: Interface, method: Method) -> Handler | None:
        """Return what serves a call that takes time, or has to know its caller."""
        if method is PROPERTIES.methods["Set"] and self._tree.is_writable(
            str(message.path), *message.body[:2]
        ):
            return self._set
        return self._handlers.get((interface.name, method.name))

    async def _set(self, call: Call) -> list[Any]:
        _, name, value = call.arguments
        logcontrol.change(call.caller, name, value)
        self._tree.put(call.path, logcontrol.LOG_CONTROL, None)
        return []

    def _find(self, message: Message) -> tuple[Interface, Method]:
        path, wanted, member = str(message.path), message.interface, str(message.member)
        present = self._tree.interfaces(path)
        if not present and wanted != PEER.name:
            raise ProtocolError("UnknownObject", f"there is no object {path}")
        candidates = [known for known in present or (PEER,) if wanted in (None, known.name)]
        if not candidates:
            raise ProtocolError("UnknownInterface", f"{path} has no interface {wanted}")
        for interface in candidates:
            if member in interface.methods:
                return interface, interface.methods[member]
        raise ProtocolError("UnknownMethod", f"{path} has no method {member}")

    def _answer_of_tree(self, message: Message) -> list[Any]:
        """Serve the standard interfaces."""
        path, body = str(message.path), message.body
        match message.member:
            case "Ping":
                return []
            case "GetMachineId":
                return [read_without_waiting("/etc/machine-id")]
            case "Introspect":
                return [self._tree.introspect(path)]
            case "GetManagedObjects":
                return [self._tree.managed()]
            case "GetAll":
                return [self._tree.properties(path, body[0])]
            case _:
                value = self._tree.properties(path, body[0]).get(body[1])
                if value is None:
                    raise ProtocolError("UnknownProperty", f"{path} has no property {body[1]}")
                if message.member == "Set":
                    raise ProtocolError("PropertyReadOnly", f"{body[1]} cannot be set")
                return [value]

    def _serve_later(
        self,
        message: Message,
        method: Method,
        handler: Handler,
        arguments: tuple[Any, ...],
        options: Mapping[str, Any],
    ) -> None:
        sender = str(message.sender)
        calls = self._served.get(sender, [])
        if len(calls) >= _CALLS_PER_SENDER or sum(map(len, self._served.values())) >= _CALLS:
            raise ProtocolError("LimitsExceeded", "too many calls are being served")
        if not self._served:
            self._callers.watch()
        self._served[sender] = calls
        served = _Served(asyncio.create_task(self._serve(message, method, handler, arguments, options)))
        calls.append(served)
        served.task.add_done_callback(lambda _: self._forget(sender, served))

    async def _serve(
        self,
        message: Message,
        method: Method,
        handler: Handler,
        arguments: tuple[Any, ...],
        options: Mapping[str, Any],
    ) -> None:
        uid = None
        try:
            caller = await self._callers.identify(str(message.sender))
            if self._users[caller.uid] >= _CALLS_PER_USER:
                raise ProtocolError("LimitsExceeded", "too many calls of this user are being served")
            uid = caller.uid
            self._users[uid] += 1
            call = Call(str(message.path), caller, method, arguments, options)
            if method.right:
                actions = method.right.actions(call.given(), verified=self._verified())
                call = replace(call, action=actions[0])
                await self._authorise(message, method.right, call, actions)
                self._commit(caller.sender)
            body = await handler(call)
            self._answer(message, method, body)
        except ConnectionEnded:
            pass
        except Exception as error:
            self._refuse(message, error)
        finally:
            if uid is not None:
                self._users[uid] -= 1
                self._users += Counter()

    async def _authorise(self, message: Message, right: Right, call: Call, actions: list[str]) -> None:
        """Raise unless the caller may do this; root may without polkit, and one's own job one may cancel."""
        if call.caller.uid in (0, self._owner_of(call.path)):
            return
        details = right.details(call.given())
        if call.path.startswith(JOB_ROOT):
            details["job"] = call.path
        interactive = bool(message.flags & MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION)
        for action in actions:
            await self._authority.require(
                call.caller, ACTION_PREFIX + action, details, interactive=interactive
            )

    def _commit(self, sender: str) -> None:
        current = asyncio.current_task()
        for served in self._served.get(sender, ()):
            if served.task is current:
                served.committed = True

    def _abandon(self, sender: str) -> None:
        for served in self._served.get(sender, ()):
            if not served.committed:
                served.task.cancel()

    def _forget(self, sender: str, served: _Served) -> None:
        calls = self._served[sender]
        calls.remove(served)
        if not calls:
            del self._served[sender]
        if not self._served:
            self._callers.unwatch()

    def _answer(self, message: Message, method: Method, body: list[Any]) -> None:
        descriptors = [item.number for item in body if isinstance(item, Descriptor)]
        if message.flags & MessageFlag.NO_REPLY_EXPECTED:
            close_all(descriptors)
            return
        # In the body stands which of the descriptors it is.
        body = [descriptors.index(item.number) if isinstance(item, Descriptor) else item for item in body]
        self._connection.send(Message.new_method_return(message, method.reply_signature, body, descriptors))

    def _refuse(self, message: Message, error: Exception) -> None:
        name, text = describe(error, f"{message.interface}.{message.member}")
        if not message.flags & MessageFlag.NO_REPLY_EXPECTED:
            self._connection.send(Message.new_error(message, name, text))


def _checked(message: Message, method: Method) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return arguments and options of a call whose signature fits; raises InvalidArguments, InvalidImage."""
    if method.options is None:
        return tuple(message.body), {}
    *arguments, given = message.body
    options = {}
    for name, value in given.items():
        if name.startswith("x-"):
            continue
        expected = method.options.get(name)
        if expected is None:
            raise InvalidArguments(f"{method.name} has no option {name[:64]!r}")
        if value.signature != expected:
            raise InvalidArguments(
                f"option {name} of {method.name} is of type {expected}, not {value.signature}"
            )
        if expected == "s" and not _speakable(value.value):
            raise InvalidArguments(f"option {name} of {method.name} is too long or cannot be printed")
        options[name] = value.value
    # They reach prompts and logs before they are parsed.
    for argument, value in zip(method.inputs, arguments, strict=False):
        if isinstance(value, str) and not _speakable(value):
            error = InvalidImage if argument.name == "image" else InvalidArguments
            raise error(f"the {argument.name} is too long or holds characters that cannot be printed")
    return tuple(arguments), options


def _speakable(text: str) -> bool:
    return len(text) <= _IMAGE_CHARACTERS and text.isprintable()
