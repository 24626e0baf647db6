"""Views of what runs: listeners of a Monitor, drawn with ipywidgets and plotly, or as text and HTML."""
