"""Pictures of Neovim and Emacs in a terminal, with critic at work.

    pip install pyte pillow
    python3 editors/screenshots.py CRITIC MODEL

Runs each editor on a pseudo-terminal, types commands, and draws the screen as it is when the
work is done. The pictures go to editors/*/screenshots.
"""

import fcntl
import os
import pty
import select
import shutil
import struct
import sys
import tempfile
import termios
import time
from pathlib import Path

import pyte
from PIL import Image, ImageDraw, ImageFont

COLUMNS, LINES = 100, 24
FONT = "/usr/share/fonts/truetype/dejavu/DejaVuSansMono%s.ttf"
NAMED = {
    "black": "#1c1c1c", "red": "#e06c75", "green": "#98c379", "brown": "#e5c07b", "blue": "#61afef",
    "magenta": "#c678dd", "cyan": "#56b6c2", "white": "#dcdfe4", "default": "#dcdfe4",
    "brightblack": "#7f848e", "brightred": "#ff7b86", "brightgreen": "#b5e890", "brightbrown": "#ffd580",
    "brightblue": "#7fc1ff", "brightmagenta": "#e191ff", "brightcyan": "#7fe0ec", "brightwhite": "#ffffff",
}

NOTE = """# Our bottle

This bottle is good. It is made of steel.
\tIt keep drinks cold for 24 hour.

The the lid is made of wood and it don't leak.
"""


class Terminal:
    """A program on a pseudo-terminal, and what its screen shows."""

    def __init__(self, words, folder, environment):
        self.screen = pyte.Screen(COLUMNS, LINES)
        self.stream = pyte.ByteStream(self.screen)
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execvpe(words[0], words, {**os.environ, **environment, "TERM": "xterm-256color", "LANG": "C.UTF-8"})
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))

    def read(self, seconds):
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([self.fd], [], [], left)[0]:
                try:
                    self.stream.feed(os.read(self.fd, 1 << 16))
                except OSError:
                    return

    def type(self, text):
        os.write(self.fd, text.encode())

    def wait(self, text, seconds=240):
        for _ in range(seconds * 5):
            self.read(0.2)
            if text in "\n".join(self.screen.display):
                self.read(0.5)
                return
        sys.exit(f"{text!r} never came:\n" + "\n".join(self.screen.display))

    def draw(self, path):
        plain, bold = (ImageFont.truetype(FONT % style, 15) for style in ("", "-Bold"))
        width, height = 9, 19
        image = Image.new("RGB", (COLUMNS * width + 16, LINES * height + 16), "#1c1c1c")
        draw = ImageDraw.Draw(image)

        def colour(name, otherwise):
            return otherwise if name == "default" else NAMED.get(name) or "#" + name

        for y in range(LINES):
            for x in range(COLUMNS):
                cell = self.screen.buffer[y][x]
                front, back = colour(cell.fg, "#dcdfe4"), colour(cell.bg, "#1c1c1c")
                if cell.reverse:
                    front, back = back, front
                left, top = 8 + x * width, 8 + y * height
                draw.rectangle([left, top, left + width - 1, top + height - 1], fill=back)
                draw.text((left, top), cell.data, fill=front, font=bold if cell.bold else plain)
                if cell.underscore:
                    draw.line([left, top + height - 2, left + width - 1, top + height - 2], fill=front)
        image.save(path)
        print("\n".join(line.rstrip() for line in self.screen.display).rstrip(), "\n", path)

    def end(self):
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)


def neovim(critic, model, here, folder):
    setup = (
        f"lua require('critic').setup({{ cmd = {{ '{critic}', 'lsp', '--model', '{model}' }}, settings = {{ maxTokens = 160 }} }})"
    )
    words = ["nvim", "-u", "NONE", "-i", "NONE", "--cmd", f"set runtimepath^={here}/nvim", "--cmd", "runtime plugin/critic.lua"]
    words += ["--cmd", "set number noswapfile shortmess+=I", "-c", setup, "-c", "edit note.md | set filetype=markdown"]
    terminal = Terminal(words, folder, {"HOME": folder, "XDG_STATE_HOME": folder})
    terminal.wait("Our bottle")
    terminal.read(2)
    terminal.type(":Critique!\r")
    terminal.wait("finding")
    terminal.draw(here / "nvim/screenshots/findings.png")
    terminal.type(":CriticRefine!\r")
    terminal.wait("CriticApply takes it")
    terminal.draw(here / "nvim/screenshots/refinement.png")
    terminal.end()


def emacs(critic, model, here, folder):
    command = f'(setq critic-command (list "{critic}" "lsp" "--model" "{model}"))'
    words = ["emacs", "-nw", "-q", "--eval", "(package-initialize)", "--eval", command, "-L", f"{here}/emacs"]
    words += ["-l", "critic-eglot", "--eval", "(setq eglot-sync-connect t)", "note.txt"]
    words += ["--eval", "(progn (apply #'eglot (eglot--guess-contact)) (flymake-mode 1))"]
    terminal = Terminal(words, folder, {"HOME": folder})
    terminal.wait("Our bottle")
    terminal.read(4)
    terminal.type("\x1bxeval-expression\r(critic-critique t)\r")
    terminal.wait("finding")
    terminal.type("\x1bxflymake-show-buffer-diagnostics\r")
    terminal.read(2)
    terminal.draw(here / "emacs/screenshots/findings.png")
    terminal.end()


def main():
    critic, model = (str(Path(word).resolve()) for word in sys.argv[1:3])
    here = Path(__file__).parent.resolve()
    for editor, name in [(neovim, "nvim"), (emacs, "emacs")]:
        if not shutil.which(name):
            sys.exit(f"{name} is not installed")
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "note.md").write_text(NOTE)
            (Path(folder) / "note.txt").write_text(NOTE)
            editor(critic, model, here, folder)


main()
