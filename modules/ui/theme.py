"""The look of stock components: green accent, system fonts, and the colour names that app.css defines for light and dark.

Only the two colours that the browser paints before the stylesheet has come are written out here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradio.themes import Base

SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Noto Sans", "Arial", "sans-serif")
MONO_FONTS = ("ui-monospace", "SF Mono", "Cascadia Code", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")
# Shades of the accent, light to dark: 50, 100, 200 … 900, 950
GREENS = ("#eef6f1", "#dcebe2", "#b9d8c7", "#8fbfa6", "#5f9f81", "#3b8263", "#236b4c", "#1d5a40", "#194834", "#153b2b", "#0b2118")
GREYS = ("#f8f8f5", "#f1f1ec", "#e3e4dc", "#cfd1c8", "#a3a79e", "#777d75", "#5b625b", "#454b46", "#2d332f", "#1d211f", "#141715")


def build_theme() -> Base:
    """The theme of the page."""
    import gradio as gr

    theme = gr.themes.Base(
        primary_hue=gr.themes.Color(*GREENS, name="paddock"),
        secondary_hue=gr.themes.Color(*GREENS, name="paddock"),
        neutral_hue=gr.themes.Color(*GREYS, name="stone"),
        radius_size=gr.themes.sizes.radius_lg,
        text_size=gr.themes.sizes.text_md,
        font=list(SYSTEM_FONTS),
        font_mono=list(MONO_FONTS),
    )
    both = {
        "background_fill_primary": "var(--card)", "background_fill_secondary": "var(--page)", "block_background_fill": "transparent",
        "block_border_width": "0px", "block_shadow": "none", "block_label_background_fill": "transparent", "block_label_border_width": "0px",
        "block_label_text_color": "var(--muted)", "block_title_text_color": "var(--ink)", "block_title_text_weight": "550",
        "block_info_text_color": "var(--muted)", "border_color_primary": "var(--line)", "border_color_accent": "var(--accent)",
        "body_text_color_subdued": "var(--muted)", "input_background_fill": "var(--field)", "input_border_color": "var(--line)",
        "input_border_color_focus": "var(--accent)", "input_shadow": "none", "input_shadow_focus": "0 0 0 3px var(--accent-soft)",
        "panel_background_fill": "transparent", "button_primary_background_fill": "var(--accent-fill)",
        "button_primary_background_fill_hover": "var(--accent-strong)", "button_primary_text_color": "#ffffff",
        "button_secondary_background_fill": "var(--card)", "button_secondary_background_fill_hover": "var(--hover)",
        "button_secondary_text_color": "var(--ink)", "button_secondary_border_color": "var(--line)",
        "slider_color": "var(--accent-fill)", "checkbox_background_color": "var(--field)", "checkbox_border_color": "var(--line-strong)",
        "checkbox_background_color_selected": "var(--accent-fill)", "checkbox_border_color_selected": "var(--accent-fill)",
        "table_even_background_fill": "var(--card)", "table_odd_background_fill": "var(--card)", "table_border_color": "var(--line)",
        "link_text_color": "var(--accent)", "accordion_text_color": "var(--ink)",
    }  # fmt: skip
    return theme.set(
        body_background_fill="#fcfcfa", body_background_fill_dark="#171a18", body_text_color="#1e2420", body_text_color_dark="#e7ebe8",
        button_border_width="1px", input_border_width="1px", input_radius="10px", button_large_radius="10px", button_small_radius="8px",
        **both, **{f"{name}_dark": value for name, value in both.items() if name != "block_title_text_weight" and "width" not in name},
    )  # fmt: skip
