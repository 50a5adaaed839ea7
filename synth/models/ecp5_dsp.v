// The multiplier block of ECP5, for simulation: what Lattice's sysDSP usage guide (FPGA-TN-02205)
// says of MULT18X18D as a multiplier of its own ports. Yosys has the other cells (+/lattice), but
// this one only as a black box. Whatever is not modelled ends the simulation.
//
// Each register (operands, pipeline, product) chooses one of four clocks, enables and resets; its
// reset is synchronous, and its value at power-up zero. The signs are registered with the operands.
// Ports that nothing drives read as 0 here: cascades, and the enables and resets not chosen.
`timescale 1ns / 1ps
module MULT18X18D (
  input A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0,
  input B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0,
  input C17, C16, C15, C14, C13, C12, C11, C10, C9, C8, C7, C6, C5, C4, C3, C2, C1, C0,
  input SIGNEDA, SIGNEDB, SOURCEA, SOURCEB,
  input CLK3, CLK2, CLK1, CLK0, CE3, CE2, CE1, CE0, RST3, RST2, RST1, RST0,
  output P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18,
  output P17, P16, P15, P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0,
  output SIGNEDP
);
  parameter REG_INPUTA_CLK = "NONE", REG_INPUTA_CE = "CE0", REG_INPUTA_RST = "RST0";
  parameter REG_INPUTB_CLK = "NONE", REG_INPUTB_CE = "CE0", REG_INPUTB_RST = "RST0";
  parameter REG_INPUTC_CLK = "NONE", REG_INPUTC_CE = "CE0", REG_INPUTC_RST = "RST0";
  parameter REG_PIPELINE_CLK = "NONE", REG_PIPELINE_CE = "CE0", REG_PIPELINE_RST = "RST0";
  parameter REG_OUTPUT_CLK = "NONE", REG_OUTPUT_CE = "CE0", REG_OUTPUT_RST = "RST0";
  parameter CLK0_DIV = "ENABLED", CLK1_DIV = "ENABLED", CLK2_DIV = "ENABLED", CLK3_DIV = "ENABLED";
  parameter HIGHSPEED_CLK = "NONE", GSR = "ENABLED", CAS_MATCH_REG = "FALSE";
  parameter SOURCEB_MODE = "B_SHIFT", MULT_BYPASS = "DISABLED", RESETMODE = "SYNC";

  initial
    if (REG_INPUTC_CLK != "NONE" || HIGHSPEED_CLK != "NONE" || CAS_MATCH_REG != "FALSE"
        || MULT_BYPASS != "DISABLED" || RESETMODE != "SYNC")
      $fatal(1, "%m: a mode of MULT18X18D that is not modelled");
  always @*
    if (SOURCEA === 1'b1 || SOURCEB === 1'b1)
      $fatal(1, "%m: shifted operands of MULT18X18D are not modelled");

  wire [17:0] a = {A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0};
  wire [17:0] b = {B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0};
  wire [18:0] a_q, b_q;
  wire [35:0] product = $signed({a_q[18] & a_q[17], a_q[17:0]})
                        * $signed({b_q[18] & b_q[17], b_q[17:0]});
  wire [36:0] pipeline_q, p;
  wire [11:0] controls = {RST3, RST2, RST1, RST0, CE3, CE2, CE1, CE0, CLK3, CLK2, CLK1, CLK0};

  hwgen_dsp_register #(19, REG_INPUTA_CLK, REG_INPUTA_CE, REG_INPUTA_RST)
    input_a (controls, {SIGNEDA, a}, a_q);
  hwgen_dsp_register #(19, REG_INPUTB_CLK, REG_INPUTB_CE, REG_INPUTB_RST)
    input_b (controls, {SIGNEDB, b}, b_q);
  hwgen_dsp_register #(37, REG_PIPELINE_CLK, REG_PIPELINE_CE, REG_PIPELINE_RST)
    pipeline (controls, {a_q[18] | b_q[18], product}, pipeline_q);
  hwgen_dsp_register #(37, REG_OUTPUT_CLK, REG_OUTPUT_CE, REG_OUTPUT_RST)
    result (controls, pipeline_q, p);

  assign {SIGNEDP,
          P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18,
          P17, P16, P15, P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0} = p;
endmodule

// One register of the block, or none.
module hwgen_dsp_register #(
  parameter WIDTH = 1, CLK = "NONE", CE = "CE0", RST = "RST0"
) (input [11:0] controls, input [WIDTH-1:0] d, output [WIDTH-1:0] q);
  localparam CLK_BIT = CLK == "CLK3" ? 3 : CLK == "CLK2" ? 2 : CLK == "CLK1" ? 1 : 0;
  localparam CE_BIT = CE == "CE3" ? 7 : CE == "CE2" ? 6 : CE == "CE1" ? 5 : 4;
  localparam RST_BIT = RST == "RST3" ? 11 : RST == "RST2" ? 10 : RST == "RST1" ? 9 : 8;
  generate
    if (CLK == "NONE") begin : bypassed
      assign q = d;
    end else begin : registered
      reg [WIDTH-1:0] value = 0;
      always @(posedge controls[CLK_BIT])
        if (controls[RST_BIT] === 1'b1) value <= 0;
        else if (controls[CE_BIT]) value <= d;
      assign q = value;
    end
  endgenerate
endmodule
