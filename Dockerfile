# Both commands of README.md, on a CPU:
#
#     docker build -t npg-toolkit .                            # installs, and trains TRPO on CartPole-v1
#     docker run --rm npg-toolkit                              # runs the tests (takes minutes)
#     docker run --rm -v "$PWD/runs:/npg-toolkit/runs" npg-toolkit npg train --env Acrobot-v1
FROM python:3.11-slim

# Mesa draws MuJoCo's tasks without a display.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libegl1 libgl1 \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /npg-toolkit
COPY . .
RUN pip install --no-cache-dir -c constraints.txt -e . && python train.py
RUN pip install --no-cache-dir -c constraints.txt -e ".[test]"
CMD ["pytest"]
