"""How a stream to a coordinator begins: who is there, in which version of the protocol."""

from __future__ import annotations

from tessera_api.messages import FROM_AGENT, PROTOCOL, Hello
from tessera_api.stream import MessageStream, StreamClosed

GREETING_SECONDS = 5.0


async def hello_on(stream: MessageStream) -> Hello:
    """The hello that a stream begins with. Raises StreamClosed, pydantic.ValidationError."""
    hello = FROM_AGENT.validate_python((await stream.receive(GREETING_SECONDS)).body)
    if not isinstance(hello, Hello):
        raise StreamClosed("the first message was no hello")
    if hello.protocol not in (PROTOCOL, PROTOCOL - 1):
        raise StreamClosed(f"protocol {hello.protocol}; this coordinator speaks {PROTOCOL} and {PROTOCOL - 1}")
    return hello
