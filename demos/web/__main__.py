"""Look at the demos on a local page: Sudoku, matching and tracking.

The page is served to this machine alone. It asks for nothing from elsewhere, and sends nothing anywhere.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from demos.command import run
from demos.web import render

if TYPE_CHECKING:
    import gradio as gr

ADDRESS = "127.0.0.1"


@dataclass(frozen=True)
class Options:
    """Where the page is."""

    port: int = 7860
    """Of 127.0.0.1; 0 for one that is free."""
    open_browser: bool = True
    """Open the page in a browser."""
    threads: int | None = None
    """Number of CPU threads (default: all cores)."""


def page() -> gr.Blocks:
    """The page with its three tabs."""
    # Both are read when gradio is imported: it would ask for its newest version, and report that it has been started.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio as gr
    except ImportError:
        raise ValueError("the page needs gradio: pip install '.[web]'") from None

    from demos.web import matching, sudoku, tracking

    with gr.Blocks(title="difflayers", analytics_enabled=False, delete_cache=(3600, 3600)) as blocks:
        gr.Markdown("# difflayers\nDiscrete problems, relaxed so that a network can learn through them.")
        for name, tab in (("Sudoku", sudoku), ("Matching", matching), ("Tracking", tracking)):
            with gr.Tab(name):
                tab.add_tab()
    return blocks


def serve(options: Options, *, block: bool = True) -> str:
    """Serve the page until Ctrl-C, or in the background; returns its address."""
    import socket

    if not 0 <= options.port <= 65535:
        raise ValueError(f"--port: got {options.port}, wanted 0 to 65535")
    if options.threads is not None:
        if options.threads < 1:
            raise ValueError(f"--threads: got {options.threads}, wanted 1 or more")
        import torch

        torch.set_num_threads(options.threads)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, options.port))
        except OSError as error:
            raise ValueError(f"--port: {options.port} cannot be used ({error.strerror}); give another, or 0") from None
        port = probe.getsockname()[1]
    blocks = page()
    import gradio as gr

    # Fonts of the machine: the theme's own would be asked for at Google.
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    _, address, _ = blocks.queue(default_concurrency_limit=1).launch(
        server_name=ADDRESS, server_port=port, share=False, inbrowser=options.open_browser, quiet=True, show_error=True,
        prevent_thread_lock=True, ssr_mode=False, footer_links=[], max_file_size="500mb", theme=theme,
        css_paths=render.HERE / "page.css",
    )  # fmt: skip
    if block:
        print(f"The page is at {address} (Ctrl-C ends it)", flush=True)
        blocks.block_thread()
    return address


def act(options: Options) -> int:
    """Serve the page."""
    serve(options)
    return 0


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    return run("python -m demos.web", __doc__, Options, act, argv)


if __name__ == "__main__":
    sys.exit(main())
