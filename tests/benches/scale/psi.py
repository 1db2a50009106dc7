"""Two lists through OpenMined PSI, in one process and without a wire; what it took, as JSON.

Usage: psi.py SERVER_LIST CLIENT_LIST. Exits with 3 if PSI is not installed.
"""

import json
import sys
import time

try:
    import private_set_intersection.python as psi
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit(3)


def lines(path):
    with open(path, encoding="utf-8") as file:
        return file.read().splitlines()


def main():
    held, asked = map(lines, sys.argv[1:])
    begun = time.perf_counter()
    server = psi.server.CreateWithNewKey(True)
    client = psi.client.CreateWithNewKey(True)
    # The server's rate of false positives is Sotto's, of about 1 in 10^9 for each value.
    setup = server.CreateSetupMessage(
        1e-9 * len(asked), len(asked), held, psi.DataStructure.GCS
    )
    response = server.ProcessRequest(client.CreateRequest(asked))
    found = client.GetIntersection(setup, response)
    print(
        json.dumps(
            {
                "version": psi.__version__,
                "seconds": time.perf_counter() - begun,
                "found": len(found),
            }
        )
    )


main()
