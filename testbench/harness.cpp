// The C side of a compiled model: clocks a Verilated module and moves beats between it and the
// buffers of the host. Compiled together with the model (testbench/compiled.py), which generates
// "ports.h": PORTS(X) applies X(member) to each port of the top module, CLOCK(X) and RESET(X) to
// its clk and rst where it has them.
#include <cstdint>
#include <cstring>
#include <vector>

#include "Vtop.h"
#include "ports.h"
#include "verilated.h"
#if VM_TRACE
#include "verilated_vcd_c.h"
#endif

double sc_time_stamp() { return 0; }

namespace {

struct RandomContext : VerilatedContext {  // registers wake up with random values, not zeros
    RandomContext() { randReset(2); randSeed(1); }
};

struct Model {
    RandomContext context;
    Vtop top{&context};
    std::vector<uint8_t> held;  // the sum that waited in the last cycle, if any
    std::vector<void*> ports;
#if VM_TRACE
    VerilatedVcdC trace;
#endif
    uint64_t half_cycles = 0;

    void eval(int clk) {
#define SET(member) top.member = clk;
        CLOCK(SET)
#undef SET
        (void)clk;  // a module without registers has none
        top.eval();
#if VM_TRACE
        if (trace.isOpen()) trace.dump(half_cycles * 5);  // a cycle is 10 ns
#endif
        half_cycles++;
    }
};

// What one stream is to carry, and how far it is.
struct Source {
    const uint8_t* data;
    const int64_t (*segments)[2];  // first beat, number of beats
    int64_t segment_count, beat_bytes;
    int64_t segment, position;     // the next beat
    int64_t valid_port, payload_port, ready_port;
    int64_t payload_bits;
    int64_t probability;           // of offering beats, of 65536
    int64_t open;                  // beats are offered in this burst
    int64_t offered;               // valid is up
};

struct Sink {
    int64_t valid_port, payload_port, ready_port, payload_bytes;
    int64_t probability;           // of accepting beats, of 65536
    int64_t open;                  // beats are accepted in this burst
    int64_t fields, bits;          // signed fields of a beat, lowest first; then one bit, `last`
    int64_t* sums;                 // (capacity, fields)
    uint8_t* last;                 // (capacity)
    int64_t* cycles;               // (capacity)
    int64_t capacity, count;       // of the buffers; beats in them now
};

struct Job {
    Source sources[2];
    Sink sink;
    int64_t wanted;                // beats of the sink still to come
    int64_t cycle;                 // cycles since reset
    int64_t idle;                  // cycles since anything was transferred
    int64_t patience;              // cycles without a transfer that count as hung
    int64_t burst;                 // cycles between two draws of what is open
    int64_t first_operand, last_operand;
    uint64_t random;
};

enum Outcome { RUNNING = 0, DONE = 1, HUNG = 2, RETRACTED = 3, CHANGED = 4 };

int draw(uint64_t& state) {  // xorshift64 (Marsaglia 2003): 0 to 65535
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (state >> 24) & 65535;
}

int64_t field(const uint8_t* bytes, int64_t index, int64_t bits) {
    const int64_t from = index * bits;
    uint64_t value = 0;
    for (int64_t got = 0; got < bits;) {
        const int64_t place = from + got, shift = place & 7;
        value |= (uint64_t)(bytes[place >> 3] >> shift) << got;
        got += 8 - shift;
    }
    return (int64_t)(value << (64 - bits)) >> (64 - bits);
}

}  // namespace

extern "C" {

Model* model_new(const char* trace) {
    Model* model = new Model;
#define ADD(member) model->ports.push_back((void*)&model->top.member);
    PORTS(ADD)
#if VM_TRACE
    if (*trace) {
        model->context.traceEverOn(true);
        model->top.trace(&model->trace, 99);
        model->trace.open(trace);
    }
#else
    (void)trace;
#endif
    return model;
}

void model_free(Model* model) {
    model->top.final();
#if VM_TRACE
    model->trace.close();
#endif
    delete model;
}

void model_reset(Model* model) {
#define SET(member) model->top.member = 1;
    RESET(SET)
#undef SET
    model->eval(0);  // one cycle, as documented
    model->eval(1);
    model->held.clear();
#define CLEAR(member) model->top.member = 0;
    RESET(CLEAR)
}

// Run for at most `cycles`, until all wanted beats have come or the sink's buffers are full.
int64_t model_run(Model* model, Job* job, int64_t cycles) {
    std::vector<void*>& ports = model->ports;
    Sink& sink = job->sink;
    uint8_t& out_valid = *(uint8_t*)ports[sink.valid_port];
    uint8_t& out_ready = *(uint8_t*)ports[sink.ready_port];
    const uint8_t* out = (const uint8_t*)ports[sink.payload_port];
    sink.count = 0;
    for (; cycles > 0 && job->wanted > 0 && sink.count < sink.capacity; cycles--) {
        const bool redraw = job->cycle % job->burst == 0;
        for (Source& s : job->sources) {
            uint8_t& valid = *(uint8_t*)ports[s.valid_port];
            uint8_t* payload = (uint8_t*)ports[s.payload_port];
            if (redraw) s.open = draw(job->random) < s.probability;
            if (s.offered) continue;
            if (s.segment < s.segment_count && s.open) {
                const int64_t beat = s.segments[s.segment][0] + s.position;
                memcpy(payload, s.data + beat * s.beat_bytes, s.beat_bytes);
                valid = s.offered = 1;
            } else if (valid) {  // nothing may depend on the payload of an idle stream
                for (int64_t i = 0; i < s.beat_bytes; i++) payload[i] = ~payload[i];
                const int used = (s.payload_bits - 1) % 8 + 1;  // no bit beyond the port's width
                payload[s.beat_bytes - 1] &= (1 << used) - 1;
                valid = 0;
            }
        }
        if (redraw) sink.open = draw(job->random) < sink.probability;
        out_ready = sink.open;
        model->eval(0);
        std::vector<uint8_t>& held = model->held;
        if (!held.empty() && !out_valid) return RETRACTED;
        if (!held.empty() && memcmp(held.data(), out, held.size())) return CHANGED;
        held.assign(out, out + (out_valid && !out_ready ? sink.payload_bytes : 0));
        job->idle++;
        if (out_valid && out_ready) {
            for (int64_t i = 0; i < sink.fields; i++)
                sink.sums[sink.count * sink.fields + i] = field(out, i, sink.bits);
            const int64_t top = sink.fields * sink.bits;
            sink.last[sink.count] = out[top >> 3] >> (top & 7) & 1;
            sink.cycles[sink.count++] = job->cycle;
            job->wanted--;
            job->idle = 0;
        }
        for (Source& s : job->sources) {
            if (!s.offered || !*(uint8_t*)ports[s.ready_port]) continue;
            s.offered = 0;
            if (++s.position == s.segments[s.segment][1]) { s.segment++; s.position = 0; }
            if (job->first_operand < 0) job->first_operand = job->cycle;
            job->last_operand = job->cycle;
            job->idle = 0;
        }
        model->eval(1);
        job->cycle++;
        if (job->idle > job->patience) return HUNG;
    }
    return job->wanted ? RUNNING : DONE;
}

// Run on for `cycles` with idle inputs and a willing sink; return how many beats still came out.
int64_t model_drain(Model* model, Job* job, int64_t cycles) {
    int64_t extra = 0;
    for (Source& s : job->sources) *(uint8_t*)model->ports[s.valid_port] = 0;
    *(uint8_t*)model->ports[job->sink.ready_port] = 1;
    for (; cycles > 0; cycles--) {
        model->eval(0);
        extra += *(uint8_t*)model->ports[job->sink.valid_port];
        model->eval(1);
    }
    return extra;
}

// What a packet in and a packet out are to be exchanged over.
struct Exchange {
    const uint8_t* data;           // beats to send, the last of them marked
    int64_t beats, beat_bytes;
    int64_t i_valid, i_payload, i_ready, o_valid, o_payload, o_ready;  // ports
    int64_t offer, accept;         // probabilities, of 65536
    int64_t sent, count, capacity; // beats sent; beats of the answer, and how many there is room for
    uint8_t* answer;
    int64_t cycle, idle, patience;
    uint64_t random;
};

// Run for at most `cycles`, until the marked beat of the answer has come or the buffer is full. A
// payload is `beat_bytes` of data and, above, one bit: the last beat of its packet.
int64_t model_exchange(Model* model, Exchange* job, int64_t cycles) {
    std::vector<void*>& ports = model->ports;
    uint8_t& in_valid = *(uint8_t*)ports[job->i_valid];
    uint8_t* in = (uint8_t*)ports[job->i_payload];
    const uint8_t& in_ready = *(uint8_t*)ports[job->i_ready];
    const uint8_t& out_valid = *(uint8_t*)ports[job->o_valid];
    const uint8_t* out = (const uint8_t*)ports[job->o_payload];
    uint8_t& out_ready = *(uint8_t*)ports[job->o_ready];
    const int64_t bytes = job->beat_bytes;
    if (job->cycle == 0) in_valid = 0;  // ports wake up with random values
    for (; cycles > 0 && job->count < job->capacity; cycles--) {
        if (!in_valid && job->sent < job->beats && draw(job->random) < job->offer) {
            memcpy(in, job->data + job->sent * bytes, bytes);
            in[bytes] = job->sent + 1 == job->beats;
            in_valid = 1;
        }
        out_ready = draw(job->random) < job->accept;
        model->eval(0);
        std::vector<uint8_t>& held = model->held;
        if (!held.empty() && !out_valid) return RETRACTED;
        if (!held.empty() && memcmp(held.data(), out, held.size())) return CHANGED;
        held.assign(out, out + (out_valid && !out_ready ? bytes + 1 : 0));
        job->idle++;
        bool done = false;
        if (out_valid && out_ready) {
            memcpy(job->answer + job->count++ * bytes, out, bytes);
            done = out[bytes] & 1;
            job->idle = 0;
        }
        const bool taken = in_valid && in_ready;
        if (taken) { job->sent++; job->idle = 0; }
        model->eval(1);
        if (taken) {
            in_valid = 0;
            memset(in, 0xAA, bytes);
            in[bytes] = 0;
        }
        job->cycle++;
        if (done) return DONE;
        if (job->idle > job->patience) return HUNG;
    }
    return RUNNING;
}

// Apply one row of every input a cycle and take the output `latency` cycles later.
void model_vectors(Model* model, int64_t rows, int64_t latency, int64_t inputs, const int64_t* ports,
                   const int64_t* bytes, const uint8_t* const* data, int64_t out_port,
                   int64_t out_bytes, uint8_t* out) {
    for (int64_t row = 0; row < rows + latency; row++) {
        for (int64_t i = 0; i < inputs; i++)
            memcpy(model->ports[ports[i]], data[i] + row * bytes[i], bytes[i]);
        model->eval(0);
        if (row >= latency)
            memcpy(out + (row - latency) * out_bytes, model->ports[out_port], out_bytes);
        model->eval(1);
    }
}

}  // extern "C"
