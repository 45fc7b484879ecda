"""A terminal that knows as much as what is printed needs: lines, colours, and the codes that move up and erase."""

import re

CODE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\x1b\]8;[^\x1b]*\x1b\\")


class Terminal:
    """What stands on a terminal in the end, however often it was written over."""

    def __init__(self) -> None:
        self.lines: list[list[str]] = [[]]
        self.row = self.column = 0
        self.style = ""

    def write(self, text: str) -> None:
        """Text with codes."""
        place = 0
        for code in CODE.finditer(text):
            self._put(text[place : code.start()])
            place = code.end()
            self._obey(code[1] or "", code[2] or "")
        self._put(text[place:])

    def _put(self, text: str) -> None:
        for char in text:
            if char == "\n":
                self.row, self.column = self.row + 1, 0
            elif char == "\r":
                self.column = 0
            else:
                self.lines += [[] for _ in range(self.row + 1 - len(self.lines))]
                line = self.lines[self.row]
                line += [" "] * (self.column + 1 - len(line))
                line[self.column] = f"{self.style}{char}"
                self.column += 1
        self.lines += [[] for _ in range(self.row + 1 - len(self.lines))]

    def _obey(self, numbers: str, letter: str) -> None:
        if letter == "m":
            self.style = "" if numbers in ("", "0") else f"<{numbers}>"
        elif letter == "A":
            self.row -= int(numbers or 1)
        elif letter == "K":
            self.lines[self.row] = []

    def __str__(self) -> str:
        """The lines; a colour or another style stands before what has it, in brackets, as often as it changes."""
        return "\n".join(map(self._line, self.lines)).rstrip() + "\n"

    @staticmethod
    def _line(cells: list[str]) -> str:
        found, style = "", ""
        for cell in cells:
            now, char = cell[:-1], cell[-1]
            found += char if now == style else f"{now or '<>'}{char}"
            style = now
        return found.rstrip()
