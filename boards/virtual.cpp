// A board in simulation: clocks a Verilated top, and is the UART between its pins and a
// pseudo-terminal. Compiled with the model (boards/virtual.py), which generates "pins.h": CLOCK, RX
// and TX name the top's pins; RESET and BUSY too, where it has them.
//
//   board FD DIVISOR SETTLE COUNTER    FD is the terminal's master; COUNTER, a file of 8 bytes, is
//                                      kept at the number of cycles. Ends with standard input.
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <poll.h>
#include <string>
#include <sys/mman.h>
#include <unistd.h>

#include "Vtop.h"
#include "pins.h"
#include "verilated.h"

double sc_time_stamp() { return 0; }

namespace {

volatile sig_atomic_t stopped = 0;
void stop(int) { stopped = 1; }

struct RandomContext : VerilatedContext {  // registers wake up with random values, not zeros
    RandomContext() { randReset(2); randSeed(1); }
};

// Bytes from the terminal to the pin.
struct Sender {
    const int64_t divisor;
    std::string waiting{};
    size_t next = 0;
    int bits = 1, count = 0;  // lowest first, the stop bit included; how many are left
    int64_t timer = 0;        // cycles of the present bit that are left

    bool idle() const { return timer == 0 && count == 0 && next == waiting.size(); }

    int level() {  // in this cycle
        if (timer == 0 && count == 0 && next < waiting.size()) {
            bits = (uint8_t)waiting[next++] << 1 | 1 << 9;
            count = 10;
        } else if (timer == 0 && count) {
            bits >>= 1;
        }
        if (timer == 0 && count) { count--; timer = divisor; }
        if (timer) timer--;
        return bits & 1;
    }
};

// Bytes from the pin to the terminal.
struct Receiver {
    const int64_t divisor;
    std::string heard{};
    int bits = 0, count = 0;  // samples that are to come
    int64_t timer = 0;        // cycles to the next

    bool idle() const { return count == 0; }

    void sample(int level) {
        if (count == 0) {
            if (!level) { count = 9; timer = divisor + divisor / 2; }
        } else if (--timer == 0) {
            bits = bits >> 1 | level << 8;
            timer = divisor;
            if (--count == 0 && level) heard += (char)(bits & 0xFF);
        }
    }
};

}  // namespace

int main(int argc, char** argv) {
    if (argc != 5) return 2;
    const int fd = atoi(argv[1]);
    const int64_t divisor = atoll(argv[2]), settle = atoll(argv[3]);
    const int file = open(argv[4], O_RDWR);
    void* mapped = mmap(nullptr, 8, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (mapped == MAP_FAILED) return 2;
    volatile uint64_t& counter = *(volatile uint64_t*)mapped;
    struct sigaction action = {};
    action.sa_handler = stop;
    sigaction(SIGINT, &action, nullptr);
    sigaction(SIGTERM, &action, nullptr);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);

    RandomContext context;
    Vtop top{&context};
    Sender sender{divisor};
    Receiver receiver{divisor};
    uint64_t cycles = 0;
    int64_t quiet = 0;  // cycles since anything happened
    pollfd wanted[2] = {{fd, POLLIN, 0}, {0, 0, 0}};  // input, and its end
    char block[4096];
    while (!stopped) {
        // Some bits in one go; then look whether there is something to read.
        for (int64_t end = cycles + 8 * divisor; cycles < end; cycles++) {
            top.RX = sender.level();
#ifdef RESET
            top.RESET = cycles == 0;  // one cycle, as documented
#endif
            top.CLOCK = 0;
            top.eval();
            top.CLOCK = 1;
            top.eval();
            receiver.sample(top.TX);
            quiet++;
#ifdef BUSY
            if (top.BUSY) quiet = 0;
#endif
            if (!sender.idle() || !receiver.idle()) quiet = 0;
        }
        counter = cycles;
        if (!receiver.heard.empty()) {  // what nobody reads is lost, as on a wire
            if (write(fd, receiver.heard.data(), receiver.heard.size())) receiver.heard.clear();
        }
        // Nothing can happen any more: time stands still until somebody calls.
        if (poll(wanted, 2, quiet < settle ? 0 : 1000) > 0) {
            if (wanted[1].revents & (POLLHUP | POLLERR)) break;
            if (wanted[0].revents & POLLIN && sender.next == sender.waiting.size()) {
                const ssize_t got = read(fd, block, sizeof block);
                sender.waiting.assign(block, got > 0 ? got : 0);
                sender.next = 0;
            }
        }
    }
    top.final();
    return 0;
}
