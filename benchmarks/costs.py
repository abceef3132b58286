"""What a piece of work takes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Seconds, CPU seconds, and SQL statements."""

    seconds: float
    cpu_seconds: float
    statements: int

    @classmethod
    def parse(cls, line: str) -> "Cost":
        """The cost that `line` was made of."""
        seconds, cpu_seconds, statements = line.split()
        return cls(float(seconds), float(cpu_seconds), int(statements))

    def line(self) -> str:
        """As one process tells another."""
        return f"{self.seconds} {self.cpu_seconds} {self.statements}"
