"""What one worker does to a batch of rows: fetch, engine, publish. Plain callables; nothing here knows Ray."""
