"""Models on other servers that speak OpenAI's API: vLLM, SGLang, llama-server, Ollama, TGI, another Paddock.

Nothing is loaded here: a pool of addresses answers. Importing this package imports no HTTP library.
"""
