"""How are rows in files read, many at a time?

Those of an array follow one another. Groups of them lie in Parquet files (their kind is a room up)
or in the Arrow files of a dataset that Hugging Face's `datasets` saved, which pyarrow reads.
"""
