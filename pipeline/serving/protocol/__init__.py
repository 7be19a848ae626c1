"""OpenAI's protocol over HTTP: requests, answers, errors."""
