"""How the Space looks: gradio's own theme with the fonts of the reader's machine, and the banner."""

import gradio as gr

TITLE = "clinsynth studio"
BANNER = (
    "**Everything that this page makes is synthetic. It shows no patient and is not for diagnosis, treatment or any "
    "other decision about a person.**"
)
SANS = ("system-ui", "sans-serif")
MONO = ("ui-monospace", "monospace")
CSS = """
#banner {border-left: 4px solid #d97706; padding: 0.25rem 0.75rem;}
#pictures img {image-rendering: pixelated; aspect-ratio: 1; height: auto;}
#pictures .grid-wrap {min-height: 0; max-height: none; height: auto;}
#pictures .thumbnail-lg {aspect-ratio: auto; display: flex; flex-direction: column;}
#pictures .caption-label {position: static; max-width: none; width: 100%; white-space: normal; text-align: left;}
#texts article {border-top: 1px solid var(--border-color-primary); padding: 0.75rem 0; overflow-wrap: anywhere;}
#texts h3 {font-weight: 600;}
#texts h4 {color: var(--body-text-color-subdued); margin-top: 0.5rem;}
#texts p {white-space: pre-wrap;}
"""


def theme() -> gr.themes.Default:
    """Without fonts from elsewhere, so that the page asks no other server for anything; with readable contrast."""
    return gr.themes.Default(primary_hue="blue", font=SANS, font_mono=MONO).set(
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_hover_dark="*primary_700",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
    )
