"""HTTP service of a model: `hipie serve`.

`service.create_app` builds the application, `server.run` listens and stops it. Of a request,
`bodies` reads the body, `fields` checks its fields, and `inference_queue` runs it on the model.
"""
