"""Gradio writes editor stubs beside every component class at import unless told not to: told here before any test imports it."""

from modules.ui.fast_import import speed_up_gradio_import

speed_up_gradio_import()
