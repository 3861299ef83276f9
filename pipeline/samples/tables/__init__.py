"""How are tables in files read, a group of rows at a time?

Groups lie in Parquet files (their kind is a room up) or in the Arrow files of a dataset that
Hugging Face's `datasets` saved, which pyarrow reads by itself.
"""
