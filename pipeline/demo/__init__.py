"""The bundled catalogue: scenes, their renderer, the training recipe and the model it made."""
