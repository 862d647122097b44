"""A Tk window that writes down what happens to it; run as a program under Xvfb.

``python window.py LOG``: appends ``click NAME``, ``press NAME``, ``release NAME`` lines to LOG and
keeps what the field and the text hold in ``LOG.text``.
"""

from __future__ import annotations

import sys
import tkinter as tk
from pathlib import Path

BUTTONS = {
    "Login": (30, 100),
    "Cancel": (180, 100),
    "Settings": (330, 100),
    "Save": (30, 330),
    "Help": (180, 330),
    "Delete": (330, 330),
}


def main() -> None:
    log = Path(sys.argv[1])
    window = tk.Tk(className="Ledger")
    window.geometry("640x400+0+0")
    window.configure(background="#ffffff")
    window.option_add("*Font", ("DejaVu Sans", 11))

    def note(line: str) -> None:
        with log.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")

    field = tk.Entry(window, width=40)
    field.place(x=30, y=30)
    text = tk.Text(window, width=50, height=6)
    text.place(x=30, y=170)
    for name, (left, top) in BUTTONS.items():
        button = tk.Button(
            window,
            text=name,
            command=lambda name=name: note(f"click {name}"),  # type: ignore[misc]  # binds its value
            background="#2f6f9f",
            foreground="#ffffff",
            activebackground="#2f6f9f",
            activeforeground="#ffffff",
            borderwidth=0,
            padx=20,
            pady=6,
        )
        button.place(x=left, y=top)
        button.bind("<ButtonPress-1>", lambda _, name=name: note(f"press {name}"), add="+")
        button.bind("<ButtonRelease-1>", lambda _, name=name: note(f"release {name}"), add="+")

    def keep() -> None:
        held = f"{field.get()}\0{text.get('1.0', 'end-1c')}"
        Path(f"{log}.new").write_text(held, encoding="utf-8")
        Path(f"{log}.new").replace(f"{log}.text")
        window.after(50, keep)

    window.wait_visibility()
    for _ in range(3):
        window.update()
        window.winfo_pointerxy()  # a question to the X server: what was sent before has happened
    note("ready")
    window.after(50, keep)
    window.mainloop()


if __name__ == "__main__":
    main()
