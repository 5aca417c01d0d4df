"""A conversation with a trained student in the terminal: ``python -m orca.chat model=DIR``."""

# ServedModel is in orca.chat.server: its client takes a second to import.

from orca.chat.conversation import Conversation, Turn, message_number, read_system_message
from orca.chat.model import LocalModel, Model, text_pieces
from orca.chat.terminal import Terminal, answer_once

__all__ = [
    "Conversation",
    "LocalModel",
    "Model",
    "Terminal",
    "Turn",
    "answer_once",
    "message_number",
    "read_system_message",
    "text_pieces",
]
