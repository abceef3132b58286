"""Names that a folder may have, and that somebody might read as a pattern, a URL, a placeholder or
two words."""

ODD_NAMES = (
    "masks [2]",
    "[a-z]*",
    "what?",
    "100%20",
    "%(here)s",
    "no#1",
    'it\'s "so"',
    "$HOME ${x} `y`",
    "Größe 大",
    "two\nlines",
    "a&b=c;d,e",
    "~user:pw@host",
    "{x}!r <y>",
    "back\\slash",
)
