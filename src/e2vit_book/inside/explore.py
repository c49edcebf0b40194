"""Controls for readers with a kernel: a figure that is drawn anew whenever a slider or a menu changes.

Works with ipywidgets 7.7 (Colab) and 8. In a page without a kernel the first drawing stays; put a
``figures.html.slideshow`` of the same thing beside it.
"""

from collections.abc import Callable, Sequence

import ipywidgets
import matplotlib.pyplot as plt
from IPython.display import display
from matplotlib.figure import Figure


def explore(draw: Callable[..., Figure], **choices: Sequence | range) -> ipywidgets.VBox:
    """Calls draw(name=value, …) with the values of one control for each choice, now and after every change.

    choices: name → a range, which becomes a slider, or a sequence of values, which becomes a menu.
    """
    controls = {name: _control(name, values) for name, values in choices.items()}
    output = ipywidgets.Output()

    def update(*_) -> None:
        with output:
            output.clear_output(wait=True)
            figure = draw(**{name: control.value for name, control in controls.items()})
            display(figure)
            plt.close(figure)

    for control in controls.values():
        control.observe(update, names="value")
    update()
    row = ipywidgets.HBox(list(controls.values()), layout=ipywidgets.Layout(flex_flow="row wrap"))
    return ipywidgets.VBox([row, output])


def _control(name: str, values: Sequence | range) -> ipywidgets.Widget:
    if not len(values):
        raise ValueError(f"there is nothing to choose from for {name!r}")
    if isinstance(values, range):
        return ipywidgets.IntSlider(
            value=values[0], min=values[0], max=values[-1], step=values.step, description=name, continuous_update=False
        )
    return ipywidgets.Dropdown(options=list(values), description=name)
