"""xllamacpp's server as a process of its own, with the options of `llama-server` that we give.

A process can be ended, and what a C++ library prints or aborts stays in it. It imports nothing of
the project, which would take longer than the server's start.
"""

import argparse
import os
import signal
import time


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ctx-size", type=int, required=True)
    parser.add_argument("--parallel", type=int, required=True)
    parser.add_argument("--no-kv-unified", action="store_true")
    parser.add_argument("--cache-type-k", required=True)
    parser.add_argument("--cache-type-v", required=True)
    parser.add_argument("--flash-attn", choices=("on", "off"), required=True)
    parser.add_argument("--cache-ram", type=int, required=True)
    parser.add_argument("--slot-save-path", required=True)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--threads-batch", type=int)
    return parser.parse_args()


def main() -> None:
    """Serve until a signal ends the process, or who started it has ended."""
    import xllamacpp

    starter, options = os.getppid(), _options()
    types, flash = xllamacpp.ggml_type, xllamacpp.llama_flash_attn_type
    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.hostnames, params.port = [options.host], options.port
    params.n_ctx, params.n_parallel = options.ctx_size, options.parallel
    params.kv_unified = not options.no_kv_unified
    params.cache_type_k = getattr(types, f"GGML_TYPE_{options.cache_type_k.upper()}")
    params.cache_type_v = getattr(types, f"GGML_TYPE_{options.cache_type_v.upper()}")
    wanted = "ENABLED" if options.flash_attn == "on" else "DISABLED"
    params.flash_attn_type = getattr(flash, f"LLAMA_FLASH_ATTN_TYPE_{wanted}")
    params.cache_ram_mib = options.cache_ram
    params.slot_save_path = options.slot_save_path
    params.endpoint_slots, params.warmup = True, False
    if options.threads is not None:
        params.cpuparams.n_threads = options.threads
        params.cpuparams_batch.n_threads = options.threads_batch
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    # Its threads are C++'s: the default of a signal ends them all, where Python would wait.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Who started it may be killed, and cannot end it then.
    while os.getppid() == starter:
        time.sleep(1)
    os._exit(0)


if __name__ == "__main__":
    main()
