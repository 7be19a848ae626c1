"""A text as what the system says in a conversation."""

from pipeline.data.chat import Chat
from pipeline.data.conversation import Turns
from pipeline.errors import PipelineError

BLANK_LINE = "\n\n"


def in_system(text: str, turns: Turns) -> Turns:
    """The text as the system's turn, before what the system says there already."""
    own = turns[0] if turns[0]["role"] == "system" else {"role": "system", "content": ""}
    rest = turns[1:] if turns[0]["role"] == "system" else turns
    said = BLANK_LINE.join(part for part in (text, own["content"]) if part)
    return [{**own, "content": said}, *rest]


def prints_system(chat: Chat, text: str, turns: Turns) -> bool:
    """Whether the chat template has a system's turn, and does not leave the text in it out."""
    try:
        return text.strip() in chat.render(in_system(text, turns), True)
    except PipelineError:
        return False
