"""What one SMTP session has used of its budget: commands, messages and errors."""

from __future__ import annotations

from collections import Counter

from inbound_audit.listeners.budget import SessionBudget

_TRANSACTION = ("MAIL", "RCPT", "DATA", "PROXY", "QUIT")


class Usage:
    """Counts for one session. Its methods return the reply that ends a session which has used up its budget."""

    def __init__(self, budget: SessionBudget) -> None:
        self._budget = budget
        self._commands = self._idle_commands = self._errors = self._messages = 0
        self.calls: Counter[str] = Counter()
        """By command, of those that the server knows."""

    def record_command(self, command: str, known: bool) -> bytes | None:
        budget = self._budget
        self._commands += 1
        self._idle_commands += command not in _TRANSACTION
        if known:
            self.calls[command] += 1
        if self._idle_commands > budget.max_idle_commands:
            return b"421 4.7.0 too many commands without a message"
        if self._commands > budget.max_commands:
            return b"421 4.7.0 too many commands"
        if command == "MAIL" and self._messages >= budget.max_messages:
            return b"421 4.7.0 too many messages"
        if self.calls["AUTH"] > budget.max_auth_attempts:
            return b"421 4.7.0 too many attempts to authenticate"
        return None

    def record_message(self) -> None:
        """One that was begun."""
        self._messages += 1

    def record_accepted(self) -> None:
        """Gives the session its errors and its commands without a message back."""
        self._idle_commands = self._errors = 0

    def record_error(self) -> None:
        self._errors += 1

    def check_errors(self) -> bytes | None:
        return b"421 4.7.0 too many errors" if self._errors >= self._budget.max_errors else None
