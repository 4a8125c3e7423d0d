"""Page in the browser: `hipie app`.

`page.build` makes the page of the tabs in `tabs`; what they do is in modules that do not know
gradio: `models` loads models, `work` runs and cancels, `drawing` paints, `clicks` collects prompts,
`downloads` writes results.
"""
